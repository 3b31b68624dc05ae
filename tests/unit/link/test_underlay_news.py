"""Tests that news of the underlay is told again until its handler has taken it."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest

from driver.compose.kernel import UnderlayState
from driver.errors import LinkError
from driver.link.netlink import monitor
from driver.link.underlay import device as underlay
from driver.link.underlay.device import Underlay, UnderlayWatcher

FOUND = Underlay("eth0", 2, IPv4Address("192.0.2.1"), 1500)


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


def test_a_change_that_was_not_taken_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [FOUND]
    monkeypatch.setattr(underlay, "_find", lambda _route, _wanted: now[0])
    handler = Handler()
    watcher = UnderlayWatcher("", handler, FOUND)
    watcher.resync(None)  # type: ignore[arg-type]
    now[0] = replace(FOUND, mtu=1400)
    handler.failures = 1
    with pytest.raises(LinkError):
        watcher.resync(None)  # type: ignore[arg-type]
    watcher.resync(None)  # type: ignore[arg-type]
    watcher.resync(None)  # type: ignore[arg-type]
    assert handler.taken == [FOUND, now[0]]


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
    wake, news = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))

    class Listener:
        def resync(self, _route: object) -> None:
            heard.append("all")
            os.eventfd_write(wake if len(heard) > 1 else news, 1)

        def changed(self, _messages: object) -> None:
            heard.append("news")
            raise LinkError("busy")

    def receive(_route: object) -> tuple[list[int], bool]:
        os.eventfd_read(news)
        return [1], False

    monkeypatch.setattr(monitor, "_RETRY_S", 0.01)
    monkeypatch.setattr(monitor, "_receive", receive)
    monkeypatch.setattr(monitor, "open_route", nullcontext)
    listening = threading.Thread(
        target=monitor.Monitor("test", 0, Listener())._listen,
        args=(SimpleNamespace(fileno=lambda: news), wake), daemon=True)
    listening.start()
    listening.join(10)
    os.eventfd_write(wake, 1)  # ends a listener that still waits
    listening.join(10)
    os.close(wake)
    os.close(news)
    assert heard == ["all", "news", "all"]
