"""Tests ports.Teardowns: the fake and the files must behave the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from driver.errors import LinkError
from driver.services.ports import Teardowns
from driver.state.teardowns import FOLDER, FiledTeardowns
from tests.support.fakes.kernel import Kernel, KernelTeardowns

KEYS = ["/var/run/docker/netns/0a1b2c3d4e5f", "/var/run/docker/netns/..%2f", "/proc/1/ns/net"]
Again = Callable[[], Teardowns]


@pytest.fixture(params=["fake", "files"])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Again:
    """Makes what a new driver would make."""
    if request.param == "files":
        return lambda: FiledTeardowns(tmp_path)
    kernel = Kernel()
    return lambda: KernelTeardowns(kernel)


def test_what_was_begun_is_there_until_its_end(again: Again) -> None:
    assert list(again().outstanding()) == []
    for key in [*KEYS, KEYS[0]]:
        again().begin(key)
    assert list(again().outstanding()) == sorted(KEYS)
    for key in [KEYS[1], KEYS[1], "never begun"]:
        again().end(key)
    assert list(again().outstanding()) == sorted([KEYS[0], KEYS[2]])


def test_a_disk_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    notes = FiledTeardowns(tmp_path)
    with pytest.raises(LinkError, match="cannot note that it is left"):
        notes.begin(KEYS[0])
    with pytest.raises(LinkError, match="cannot remove the note"):
        notes.end(KEYS[0])
    with pytest.raises(LinkError, match="cannot read which sandboxes"):
        notes.outstanding()
