"""Provides what several tests of one or two Docker hosts use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.rig.hosts import Lab
from tests.lab.rig.outside import name_server


@pytest.fixture(scope="module")
def no_such_name(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A name server outside, which says of other names that there are none.

    With no server there resolvers would wait for it for some seconds.
    """
    with name_server(lab, tmp_path_factory.mktemp("outside") / "root", str(lab.gateway)):
        yield
