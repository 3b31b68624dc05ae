"""Compiles and loads the programs once for all tables of packets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.kernel.packets.case import Case
from tests.kernel.packets.harness import Kernel
from tests.support.world.netns import require_root


@pytest.fixture(scope="session")
def kernel() -> Iterator[Kernel]:
    """The programs in a namespace with the interfaces of world.py."""
    require_root()
    with ExitStack() as stack:
        yield Kernel(stack)


@pytest.fixture
def run(kernel: Kernel) -> Callable[[Case], None]:
    """Run a case with fresh maps; compare the verdict, the packet, counters, copies and maps."""
    return kernel.run
