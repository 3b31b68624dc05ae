"""Tests that news of the underlay is told again until its handler has taken it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from driver.compose.parts.kernel import UnderlayState
from driver.errors import LinkError
from driver.link.netlink import monitor
from driver.link.underlay.device import Underlay, UnderlayWatcher
from tests.support.run.wait import wait_until

FOUND = Underlay("eth0", 2, IPv4Address("192.0.2.1"), 1500, "02:00:00:00:00:01")
NEWS = struct.pack("=IHHII", 16, 24, 0, 0, 0)  # struct nlmsghdr: RTM_NEWROUTE


class Handler:
    """Fails as often as the test says."""

    def __init__(self) -> None:
        self.failures = 0
        self.taken: list[Underlay | None] = []

    def __call__(self, found: Underlay | None) -> None:
        if self.failures:
            self.failures -= 1
            raise LinkError("busy")
        self.taken.append(found)


class Message(dict[str, Any]):
    """One of pyroute2's."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


class Host:
    """What rtnetlink says of a host with one device."""

    def __init__(self, underlay: Underlay) -> None:
        self.underlay = underlay

    def get_addr(self, **_: object) -> list[Message]:
        return [Message(scope=0, index=self.underlay.ifindex,
                        IFA_LOCAL=str(self.underlay.address))]

    def link(self, _get: str, **_: object) -> list[Message]:
        return [Message(ifi_type=1, IFLA_IFNAME=self.underlay.name, IFLA_MTU=self.underlay.mtu,
                        IFLA_ADDRESS=self.underlay.mac)]


def test_a_change_that_was_not_taken_is_told_again() -> None:
    host, handler = Host(FOUND), Handler()
    watcher = UnderlayWatcher("", handler, FOUND)
    watcher.resync(host)
    host.underlay = replace(FOUND, mtu=1400)
    handler.failures = 1
    with pytest.raises(LinkError):
        watcher.resync(host)
    watcher.resync(host)
    watcher.resync(host)
    assert handler.taken == [FOUND, host.underlay]


def test_an_mtu_that_could_not_be_set_is_set_later() -> None:
    state = UnderlayState(FOUND, lambda: None)
    seen: list[int] = []
    failures = [1]

    def set_mtu() -> None:
        seen.append(state.mtu())
        if failures[0]:
            failures[0] -= 1
            raise LinkError("busy")

    state.on_mtu = set_mtu
    changed = replace(FOUND, mtu=1400)
    with pytest.raises(LinkError):
        state.changed(changed)
    assert state.mtu() == 1500
    state.changed(changed)
    assert seen == [1400, 1400]
    assert state.mtu() == 1400


def test_a_notification_that_was_not_taken_has_everything_looked_at(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not repeat a notification."""
    heard: list[str] = []
    news, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    class Route:
        fileno, recvfrom = staticmethod(news.fileno), staticmethod(news.recvfrom)
        marshal = SimpleNamespace(parse=lambda message: [message])

        def bind(self, groups: int) -> None: ...

    class Listener:
        def resync(self, _route: object) -> None:
            heard.append("all")
            if len(heard) == 1:
                theirs.send(NEWS)

        def changed(self, messages: Sequence[object]) -> None:
            assert messages == [NEWS]
            heard.append("news")
            raise LinkError("busy")

    monkeypatch.setattr(monitor, "_RETRY_S", 0.01)
    monkeypatch.setattr(monitor, "open_route", lambda: nullcontext(Route()))
    with news, theirs, monitor.Monitor("test", 0, Listener()):
        wait_until(lambda: len(heard) >= 3, 10, "another look")
    assert heard == ["all", "news", "all"]
