"""Tests that the overlay path's MTU follows the narrowest way to another host, and only down."""

from __future__ import annotations

import logging
from ipaddress import IPv6Address

import pytest

from driver.compose.parts.kernel import UnderlayState
from driver.errors import LinkError
from driver.link.underlay.device import Underlay
from driver.model import HostAddress
from driver.services.hosts.path_mtu import PathMtu

A, B, STRANGER = (IPv6Address(f"2001:db8::{n}") for n in (1, 2, 3))
FOUND = Underlay("eth0", 2, A, 1500, "02:00:00:00:00:01")


class World:
    def __init__(self) -> None:
        self.told: dict[HostAddress, int] = {}
        self.lowered: list[int] = []
        self.fails = False
        self.path = PathMtu(lambda: self.told, lambda: [A, B], self.lower)

    def lower(self, mtu: int) -> None:
        if self.fails:
            raise LinkError("busy")
        self.lowered.append(mtu)


def test_the_narrowest_way_counts_and_stays() -> None:
    world = World()
    for told in ({}, {STRANGER: 1400}, {A: 1450, B: 1440}, {A: 1450}, {}, {B: 1420, A: 1430}):
        world.told = dict(told)
        world.path.run()
    assert world.lowered == [1440, 1420]


def test_nobody_can_make_it_less_than_containers_need(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.told = {A: 1280}
    world.path.run()
    assert world.lowered == [1350]
    assert "1350 bytes are needed on the way to host 2001:db8::1" in caplog.text


def test_what_could_not_be_set_is_set_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    world = World()
    world.told, world.fails = {A: 1400}, True
    with pytest.raises(LinkError):
        world.path.run()
    world.fails = False
    world.path.run()
    world.path.run()
    assert world.lowered == [1400]


def test_the_underlays_state_takes_it() -> None:
    state = UnderlayState(FOUND, lambda: None)
    set_: list[int] = []
    assert (state.overlay_mtu(), state.narrow_way()) == (1430, "")
    state.on_mtu = lambda: set_.append(state.overlay_mtu())
    state.lower(1400)
    assert (set_, state.mtu()) == ([1330], 1500)
    assert state.narrow_way() == "1400 on the way to a host"

    def busy() -> None:
        raise LinkError("busy")

    state.on_mtu = busy
    with pytest.raises(LinkError):
        state.lower(1380)
    assert state.overlay_mtu() == 1330
