"""Tests ports.Joins: the fake and the files must behave the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from driver.errors import LinkError
from driver.model import EndpointId
from driver.services.ports import Joins
from driver.state.joins import FOLDER, FiledJoins
from tests.support.fakes.kernel import Kernel, KernelJoins

ONE, TWO = EndpointId("1e" * 32), EndpointId("2e" * 32)
SANDBOX = "/var/run/docker/netns/4f0a1b2c3d4e"
Again = Callable[[], Joins]


@pytest.fixture(params=["fake", "files"])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Again:
    """Makes what a new driver would make."""
    if request.param == "files":
        return lambda: FiledJoins(tmp_path)
    kernel = Kernel()
    return lambda: KernelJoins(kernel)


def test_what_was_put_is_there_until_it_is_removed(again: Again) -> None:
    assert again().all() == {}
    again().put(ONE, SANDBOX)
    again().put(TWO, SANDBOX)
    assert again().all() == {ONE: SANDBOX, TWO: SANDBOX}
    for endpoint_id in (ONE, ONE, EndpointId("never put")):
        again().remove(endpoint_id)
    assert again().all() == {TWO: SANDBOX}


def test_the_last_one_counts(again: Again) -> None:
    for key in (SANDBOX, "/proc/1/ns/net", "/no such place/..%2f"):
        again().put(ONE, key)
        assert again().all() == {ONE: key}


def test_a_driver_that_was_killed_at_it_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / f"{ONE}.new").symlink_to("/half a")
    assert FiledJoins(tmp_path).all() == {}
    FiledJoins(tmp_path).put(ONE, SANDBOX)
    assert [each.name for each in (tmp_path / FOLDER).iterdir()] == [ONE]


def test_a_disk_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    notes = FiledJoins(tmp_path)
    with pytest.raises(LinkError, match="cannot note its sandbox"):
        notes.put(ONE, SANDBOX)
    with pytest.raises(LinkError, match="cannot remove the note"):
        notes.remove(ONE)
    with pytest.raises(LinkError, match="cannot read which sandboxes"):
        notes.all()
