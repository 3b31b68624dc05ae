"""Tests which peers are guarded: those of all networks, through failures and flushes."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address
from threading import Thread

import pytest

from driver.errors import LinkError
from driver.model import Vni
from driver.services.hosts.guarding import Guarding

A, B, C = (IPv4Address(f"198.18.0.{n}") for n in (1, 2, 3))


class FakeGuard:
    """The packet filter; if `hosts` is None, it has no table."""

    def __init__(self) -> None:
        self.hosts: set[IPv4Address] | None = None
        self.broken = False

    def install(self, hosts: Collection[IPv4Address]) -> None:
        self._work()
        self.hosts = set(hosts)

    def change(self, added: Collection[IPv4Address], removed: Collection[IPv4Address]) -> None:
        self._work()
        if self.hosts is None:
            raise LinkError("no such table")
        assert not self.hosts & set(added)
        assert self.hosts >= set(removed)
        self.hosts = self.hosts - set(removed) | set(added)

    def dropped(self) -> int | None:
        self._work()
        return None if self.hosts is None else 7

    def _work(self) -> None:
        if self.broken:
            raise LinkError("no nf_tables")


def test_peers_of_all_networks_are_guarded() -> None:
    guard = FakeGuard()
    guarding = Guarding(guard, {C})
    guarding.start()
    assert guard.hosts == {C}
    guarding.hosts_changed(Vni(1), [A, B])
    guarding.hosts_changed(Vni(2), [B])
    assert guard.hosts == {A, B, C}
    guarding.hosts_changed(Vni(1), [])
    assert guard.hosts == {B, C}
    guarding.hosts_changed(Vni(2), [])
    assert guard.hosts == {C}  # as long as this driver runs
    assert guarding.state() == "1 hosts, 7 packets dropped"
    assert guarding.dropped() == 7


def test_a_flushed_guard_comes_back() -> None:
    guard = FakeGuard()
    guarding = Guarding(guard, ())
    guarding.start()
    guarding.hosts_changed(Vni(1), [A])
    guard.hosts = None
    guarding.check()
    assert guard.hosts == {A}
    guard.hosts = None
    guarding.hosts_changed(Vni(2), [B])  # change() is refused, and the next look makes it anew
    guarding.check()
    assert guard.hosts == {A, B}


def test_without_a_packet_filter_everything_else_works() -> None:
    guard = FakeGuard()
    guard.broken = True
    guarding = Guarding(guard, ())
    guarding.start()
    guarding.hosts_changed(Vni(1), [A])
    guarding.check()
    assert guarding.state() == "missing: no nf_tables"
    assert guarding.dropped() is None
    guard.broken = False
    guarding.check()
    assert guard.hosts == {A}


def test_news_of_hosts_do_not_wait_for_a_look_at_the_rules() -> None:
    """A look may take long, and such news come with a container's Join."""
    class Slow(FakeGuard):
        def dropped(self) -> int | None:
            found = super().dropped()
            news = Thread(target=guarding.hosts_changed, args=(Vni(1), [A]), daemon=True)
            news.start()
            news.join(10)
            assert not news.is_alive()
            return found

    guard = Slow()
    guarding = Guarding(guard, ())
    guarding.start()
    guarding.check()
    assert guard.hosts == {A}


def test_a_look_that_a_change_overtook_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Late(FakeGuard):
        def dropped(self) -> int | None:
            guarding.hosts_changed(Vni(1), [A])
            return None

    guard = Late()
    guarding = Guarding(guard, ())
    guarding.start()
    guarding.check()
    assert guard.hosts == {A}
    assert caplog.text == ""
