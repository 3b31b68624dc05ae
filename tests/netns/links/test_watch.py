"""Tests watching the pairs' carrier and the underlay's changes."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from driver.errors import LinkError
from driver.link.netlink import monitor
from driver.link.netlink import news as link_news
from driver.link.netlink.sockets import Route, open_route
from driver.link.pairs.carrier import CarrierMonitor
from driver.link.pairs.veth import Veths
from driver.link.underlay.device import Underlay, UnderlayWatcher, find_underlay
from driver.link.underlay.routed import routed_networks
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from tests.support.fakes import dockerd
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns, join

MakeNetns = Callable[[str], Netns]
WAIT_S = 10.0


def endpoint(number: int) -> Endpoint:
    return Endpoint(
        id=EndpointId(f"{number:064x}"[::-1]), network_id=NetworkId("n"), vni=Vni(1),
        host=HostId("h"), underlay=IPv4Address("192.0.2.1"), mac=bytes((2, 0, 0, 0, 1, number)),
        address=IPv4Interface(f"10.32.0.{number}/16"), address6=None, port=61000 + number)


class Log:
    """A monitor's reports, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.ifindexes: dict[str, int] = {}

    def up(self, name: str, ifindex: int) -> None:
        self.events.append(("up", name))
        self.ifindexes[name] = ifindex

    def down(self, name: str, _ifindex: int) -> None:
        self.events.append(("down", name))

    def wait_for(self, *wanted: tuple[str, str]) -> None:
        wait_until(lambda: self.events == list(wanted), WAIT_S, f"{wanted}, have {self.events}")


@contextmanager
def running(host: Netns, watcher: CarrierMonitor | UnderlayWatcher) -> Iterator[None]:
    before = threading.active_count()
    host.call(watcher.start)
    try:
        yield
    finally:
        watcher.stop()
        watcher.stop()
    assert threading.active_count() == before


def test_up_is_reported_once_and_only_inside(make_netns: MakeNetns,
                                             make_sandbox: MakeNetns) -> None:
    host, inside = make_netns("host"), make_sandbox("c")
    log, first = Log(), endpoint(1)
    with running(host, CarrierMonitor(log.up, log.down)):
        veth = dockerd.make_veth(host, first)
        # It has carrier, but in the host's namespace: that must not count.
        host.ip("link set", veth.container_name, "up")
        host.ip("link set", veth.container_name, "down")
        dockerd.move_in(host, inside, first, veth)
        log.wait_for(("up", veth.host_name))
        assert log.ifindexes[veth.host_name] == veth.host_ifindex
        assert "10.32.0.1/16" in inside.ip("addr show eth0")
        dockerd.move_out(host, inside, veth)
        log.wait_for(("up", veth.host_name), ("down", veth.host_name))


def test_a_namespace_that_vanishes_takes_its_pair_with_it(make_netns: MakeNetns,
                                                          make_sandbox: MakeNetns) -> None:
    host, inside = make_netns("host"), make_sandbox("c")
    log, first = Log(), endpoint(1)
    with running(host, CarrierMonitor(log.up, log.down)):
        veth = dockerd.make_veth(host, first)
        dockerd.move_in(host, inside, first, veth)
        log.wait_for(("up", veth.host_name))
        host.call(lambda: Veths().delete_veth(first.id))
        log.wait_for(("up", veth.host_name), ("down", veth.host_name))


def test_those_that_are_up_already_are_reported_at_the_start(make_netns: MakeNetns,
                                                             make_sandbox: MakeNetns) -> None:
    host, inside = make_netns("host"), make_sandbox("c")
    log, first = Log(), endpoint(1)
    veth = dockerd.make_veth(host, first)
    dockerd.make_veth(host, endpoint(2))
    join(host, "other0", inside, "other1")
    dockerd.move_in(host, inside, first, veth)
    with running(host, CarrierMonitor(log.up, log.down)):
        log.wait_for(("up", veth.host_name))


def test_lost_notifications_are_made_good(
        make_netns: MakeNetns, make_sandbox: MakeNetns, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test holds up the listener until the kernel has no room and drops notifications."""
    host, inside = make_netns("host"), make_sandbox("c")
    log, first, second, third = Log(), endpoint(1), endpoint(2), endpoint(3)
    held, go_on = threading.Event(), threading.Event()
    dumps: list[Route] = []

    @contextmanager
    def open_small() -> Iterator[Route]:
        with open_route() as route:
            route.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # room for one or two
            yield route

    class Held(CarrierMonitor):
        def resync(self, route: Route) -> None:
            dumps.append(route)
            super().resync(route)

        def changed(self, messages: Sequence[Any]) -> None:
            held.set()
            assert go_on.wait(WAIT_S)
            super().changed(messages)

    monkeypatch.setattr(monitor, "open_route", open_small)
    left, come, deleted = (dockerd.make_veth(host, each) for each in (first, second, third))
    dockerd.move_in(host, inside, first, left)
    dockerd.move_in(host, inside, third, deleted, "eth3")
    with running(host, Held(log.up, log.down)):
        wait_until(lambda: len(log.events) == 2, WAIT_S, "both pairs")
        assert len(dumps) == 1
        host.ip("link set lo down")
        assert held.wait(WAIT_S)
        host.run("sh", "-c", "for i in $(seq 1400 1450); do echo link set lo mtu $i; done"
                 " | ip -batch -")
        dockerd.move_out(host, inside, left)
        dockerd.move_in(host, inside, second, come)
        host.call(lambda: Veths().delete_veth(third.id))
        go_on.set()
        for event in (("up", come), ("down", left), ("down", deleted)):
            wait_until(lambda event=event: (event[0], event[1].host_name) in log.events,
                       WAIT_S, str(event))
    assert len(dumps) > 1, "none was lost"


def test_a_failing_callback_does_not_end_the_watch(
        make_netns: MakeNetns, make_sandbox: MakeNetns, caplog: pytest.LogCaptureFixture) -> None:
    host, inside = make_netns("host"), make_sandbox("c")
    log, first, second = Log(), endpoint(1), endpoint(2)

    def up(name: str, ifindex: int) -> None:
        log.up(name, ifindex)
        if len(log.events) == 1:
            raise ValueError("a mistake")

    with running(host, CarrierMonitor(up, log.down)):
        for each, name in ((first, "eth0"), (second, "eth1")):
            veth = dockerd.make_veth(host, each)
            dockerd.move_in(host, inside, each, veth, name)
            wait_until(lambda veth=veth: ("up", veth.host_name) in log.events, WAIT_S, name)
    assert "not handled" in caplog.text


def test_read_by_hand_is_what_pyroute2_reads(make_netns: MakeNetns,
                                             make_sandbox: MakeNetns) -> None:
    host, inside = make_netns("host"), make_sandbox("c")

    def heard() -> list[tuple[bytes, Any]]:
        found: list[tuple[bytes, Any]] = []
        with open_route() as route:
            route.bind(groups=1)  # RTMGRP_LINK
            veth = Veths().create_veth(endpoint(1).id, endpoint(1).mac, 1400)
            dockerd.move_in(host, inside, endpoint(1), veth)
            host.ip("link add bridge0 type bridge")
            host.ip("link set", veth.host_name, "master bridge0")
            Veths().delete_veth(endpoint(1).id)
            while True:
                try:
                    raw, _ = route.recvfrom(1 << 18, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return found
                found += [(message, *route.marshal.parse(message))
                          for kind, message in link_news.split(raw) if link_news.is_link(kind)]

    messages = host.call(heard)
    read = [link_news.read(message) for message, _ in messages]
    assert [replace(news, gone=False) for news in read] == [
        link_news.LinkNews.of_dump(link) for _, link in messages]
    assert [news.gone for news in read] == [
        link["event"] == "RTM_DELLINK" for _, link in messages]
    assert {(news.gone, news.family, news.peer_elsewhere) for news in read} >= {
        (False, 0, False), (False, 0, True), (True, 0, False), (False, socket.AF_BRIDGE, False)}


def test_a_message_that_is_cut_off_is_no_news() -> None:
    whole = bytes.fromhex("24000000100000000000000000000000" "00000100010000000000000000000000"
                          "06000300")
    assert list(link_news.split(whole[:15])) == []
    assert list(link_news.split(b"\0" * 32)) == []
    assert link_news.read(whole).name == ""
    with pytest.raises(struct.error):
        link_news.read(whole[:20])


@pytest.fixture
def wired(make_netns: MakeNetns) -> Netns:
    host, wire = make_netns("host"), make_netns("wire")
    join(host, "up0", wire, "w0", mtu=1400)
    join(host, "up1", wire, "w1")
    host.ip("addr add 192.0.2.1/24 dev up0")
    host.ip("addr add 192.0.2.9/24 dev up0")
    host.ip("addr add 198.51.100.1/24 dev up1")
    return host


def test_underlay_by_default_route_device_and_address(wired: Netns) -> None:
    with pytest.raises(LinkError, match="no IPv4 default route"):
        wired.call(find_underlay)
    wired.ip("route add default via 198.51.100.254 metric 200")
    wired.ip("route add default via 192.0.2.254 src 192.0.2.9 metric 100")
    up0 = wired.ifindex("up0")
    mac = json.loads(wired.ip("-json link show up0"))[0]["address"]
    assert wired.call(find_underlay) == Underlay("up0", up0, IPv4Address("192.0.2.9"), 1400, mac)
    by_device = wired.call(lambda: find_underlay("up0"))
    assert by_device == Underlay("up0", up0, IPv4Address("192.0.2.1"), 1400, mac)
    by_address = wired.call(lambda: find_underlay("198.51.100.1"))
    assert by_address.name == "up1"
    with pytest.raises(LinkError, match="no interface nope"):
        wired.call(lambda: find_underlay("nope"))
    with pytest.raises(LinkError, match=r"address 203\.0\.113\.1"):
        wired.call(lambda: find_underlay("203.0.113.1"))
    wired.ip("addr flush dev up1")
    with pytest.raises(LinkError, match="up1 has no IPv4 address"):
        wired.call(lambda: find_underlay("up1"))


def test_routed_networks_are_all_but_default_and_local(wired: Netns) -> None:
    wired.ip("route add default via 192.0.2.254")
    wired.ip("route add 10.8.0.0/13 via 192.0.2.254")
    wired.ip("route add blackhole 10.64.0.0/16 table 99")
    wired.ip("route add 10.96.0.0/12 nexthop via 192.0.2.254 nexthop via 198.51.100.254")
    for half in ("0.0.0.0/1", "128.0.0.0/1"):  # a VPN's default route
        wired.ip(f"route add {half} via 198.51.100.254")
    wired.ip("addr add 2001:db8:7::1/64 dev up1 nodad")
    wired.ip("-6 route add fd00:9::/48 via 2001:db8:7::9")
    wired.ip("-6 route add 2000::/3 via 2001:db8:7::9")
    wired.ip("-6 route add default via 2001:db8:7::9")
    found = [(str(each.subnet), each.device) for each in wired.call(routed_networks)]
    assert [each for each in found if not each[0].startswith("fe80:")] == [
        ("10.8.0.0/13", "up0"), ("10.64.0.0/16", ""), ("10.96.0.0/12", "up0"),
        ("192.0.2.0/24", "up0"), ("198.51.100.0/24", "up1"),
        ("2001:db8:7::/64", "up1"), ("fd00:9::/48", "up1")]


def test_changes_of_the_underlay_are_told_once(wired: Netns) -> None:
    seen: list[Underlay | None] = []
    with running(wired, UnderlayWatcher("", seen.append)):
        wait_until(lambda: seen == [None], WAIT_S, "nothing at first")
        wired.ip("route add default via 192.0.2.254")
        wait_until(lambda: len(seen) == 2, WAIT_S, "the default route")
        wired.ip("route add 10.8.0.0/13 via 192.0.2.254")  # no change
        wired.ip("link set up1 mtu 1450")  # nor is this
        wired.ip("link set up0 mtu 1300")
        wait_until(lambda: len(seen) == 3, WAIT_S, "the MTU")
        wired.ip("link set up0 down")
        wait_until(lambda: len(seen) == 4, WAIT_S, "its end")
    assert [under and (under.name, str(under.address), under.mtu) for under in seen] == [
        None, ("up0", "192.0.2.1", 1400), ("up0", "192.0.2.1", 1300), None]


def test_links_of_slim_are_no_news_of_the_underlay(
        wired: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[UnderlayWatcher] = []
    look = UnderlayWatcher.resync

    def counted(watcher: UnderlayWatcher, route: Route) -> None:
        looks.append(watcher)
        look(watcher, route)

    monkeypatch.setattr(UnderlayWatcher, "resync", counted)
    told: list[Underlay | None] = []
    with running(wired, UnderlayWatcher("up0", told.append)):
        wait_until(lambda: told, WAIT_S, "the underlay is told")
        before = len(looks)
        for number in range(1, 9):
            dockerd.make_veth(wired, endpoint(number))
        wired.ip("link set up0 mtu 1300")
        wait_until(lambda: len(told) == 2, WAIT_S, "its MTU is told")
    assert len(looks) - before <= 3  # a change of the MTU is one or two notifications
