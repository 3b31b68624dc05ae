"""Tests a host's reserved ports: the driver adds its own, and takes back only these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from driver.client_ports import format_ports
from driver.link.underlay import port_settings
from driver.link.underlay.port_settings import ReservedPorts, ephemeral_ports
from tests.support.world.netns import Netns


class Place:
    """A namespace and a state folder."""

    def __init__(self, netns: Netns, state: Path) -> None:
        self.netns, self.ports, self.note = netns, ReservedPorts(state), state / "reserved-ports"

    def set(self, text: str) -> None:
        self.netns.sysctl("ipv4.ip_local_reserved_ports", text)

    def reserve(self, first: int, last: int) -> None:
        self.netns.call(lambda: self.ports.reserve((first, last)))

    def release(self) -> None:
        self.netns.call(self.ports.release)

    @property
    def all(self) -> str:
        return format_ports(self.netns.call(self.ports.all))

    @property
    def others(self) -> str:
        return format_ports(self.netns.call(self.ports.others))


@pytest.fixture
def place(make_netns: Callable[[str], Netns], tmp_path: Path) -> Place:
    return Place(make_netns("host"), tmp_path / "state")


def test_added_to_what_is_there_and_taken_back(place: Place) -> None:
    assert place.netns.call(ephemeral_ports) == (32768, 60999)
    place.set("8080,61000-61009")
    for _ in range(2):  # a driver that starts again does it twice
        place.reserve(61000, 65535)
        assert (place.all, place.others) == ("8080,61000-65535", "8080,61000-61009")
    for _ in range(2):
        place.release()
        assert place.all == "8080,61000-61009"
    assert not place.note.exists()


def test_nothing_to_begin_with_and_nothing_left(place: Place) -> None:
    place.reserve(20000, 30000)
    place.release()
    assert place.all == ""


def test_another_range_takes_the_place_of_the_one_before(place: Place) -> None:
    place.set("8080")
    place.reserve(61000, 65535)
    place.reserve(60000, 61999)
    assert (place.all, place.others) == ("8080,60000-61999", "8080")
    place.release()
    assert place.all == "8080"


def test_what_others_change_meanwhile_stays(place: Place) -> None:
    place.set("8080")
    place.reserve(61000, 65535)
    place.set("9090,61000-65535")  # another program, which has read ours first
    assert place.others == "9090"
    place.set("7070")  # another program, which has not: ours is gone
    place.reserve(61000, 65535)
    assert place.all == "7070,61000-65535"
    place.release()
    assert place.all == "7070"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_killed_at_any_step(place: Place, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The steps are a note, the kernel, the exact note; the next start or cleanup repairs all."""
    place.set("8080")
    place.reserve(60000, 60009)
    steps = iter(range(3))

    def spoilt(name: str) -> None:
        do = getattr(ReservedPorts, name)

        def step(self: ReservedPorts, ports: set[int]) -> None:
            if next(steps) == at:
                raise KeyboardInterrupt
            do(self, ports)

        monkeypatch.setattr(ReservedPorts, name, step)

    spoilt("_write_note")
    spoilt("_write")
    with pytest.raises(KeyboardInterrupt):
        place.reserve(61000, 65535)
    monkeypatch.undo()
    assert place.others == "8080"
    place.release()
    assert place.all == "8080"


def test_a_note_of_another_boot_or_namespace_is_void(
        place: Place, make_netns: Callable[[str], Netns], monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    place.reserve(61000, 65535)
    other = Place(make_netns("other"), place.note.parent)
    other.set("61000-65535")  # the administrator's
    assert other.others == "61000-65535"
    other.release()
    assert other.all == "61000-65535"
    place.reserve(61000, 65535)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(port_settings, "_BOOT", boot)
    place.release()
    assert place.all == "61000-65535"


@pytest.mark.parametrize("text", ["", "x", "a b\n1-x\n", "\n\n\n"])
def test_a_damaged_note_takes_nothing_of_others(place: Place, text: str) -> None:
    place.set("8080")
    place.note.parent.mkdir()
    place.note.write_text(text)
    assert place.others == "8080"
    place.release()
    assert place.all == "8080"


def test_a_list_longer_than_a_page_is_kept(place: Place) -> None:
    many = format_ports(range(1, 20000, 2))
    assert len(many) > 16 * 4096 // 2
    place.set(many)
    place.reserve(61000, 65535)
    assert place.all == many + ",61000-65535"
    place.release()
    assert place.all == many
