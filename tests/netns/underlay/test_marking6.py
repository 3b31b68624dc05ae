"""Tests the marked packets of `slim test` across a router of IPv6: see test_marking."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address

import pytest

from driver.link.underlay.marking import KernelMarker
from driver.link.underlay.vxlan import create_vxlan, overlay_mtu
from driver.services.ports import Heard, Sent, Target
from tests.netns.underlay.test_marking import PORTS, WHOLE, Ends
from tests.support.run.wait import wait_until
from tests.support.world.machines import VXLAN_PORT
from tests.support.world.netns import Netns, join

A, B = IPv6Address("fd00:7::1"), IPv6Address("fd00:8::1")
SIZES = (64, 1024, 1430)
ALL = frozenset(SIZES)
LONG_S = 30


@pytest.fixture
def ends(make_netns: Callable[[str], Netns]) -> Iterator[Ends]:
    a, b, router = make_netns("a"), make_netns("b"), make_netns("router")
    router.sysctl("ipv6.conf.all.forwarding", 1)
    token = secrets.token_bytes(8)
    with ExitStack() as stack:
        opened = []
        for host, address, name in ((a, A, "to_a"), (b, B, "to_b")):
            join(host, "eth0", router, name)
            host.ip(f"addr add {address}/64 dev eth0 nodad")
            router.ip(f"addr add {address + 253}/64 dev {name} nodad")
            host.ip(f"route add default via {address + 253}")
            host.call(lambda: create_vxlan(VXLAN_PORT, overlay_mtu(1500, over_ipv6=True)))
            marker = KernelMarker(address, host.ifindex("eth0"), range(40000, 41000))
            opened.append(host.call(lambda m=marker: stack.enter_context(m.marking(token))))  # type: ignore[misc]
        for host, peer in ((a, B), (b, A)):
            wait_until(lambda h=host, p=peer: h.run(  # type: ignore[misc]
                "ping", "-c1", "-W1", str(p), check=False).returncode == 0, LONG_S, "a way")
        yield Ends(a, b, router, *opened)


def send(ends: Ends) -> tuple[Sent, Heard]:
    """Send from a to b; return what both know."""
    for _ in range(2):
        ends.from_a.send([Target(B, VXLAN_PORT, PORTS, SIZES, WHOLE)])
        ends.from_a.listen(0.3)
        ends.from_b.listen(0.1)
    return ends.from_a.sent()[B], ends.from_b.heard().get(A, Heard())


def rule(netns: Netns, hook: str, text: str) -> None:
    netns.run("nft", f"table ip6 fire {{ chain c {{ type filter hook {hook} priority 0; "
              f"{text} }}; }}")


def test_all_gets_through(ends: Ends) -> None:
    """SYNs, too, for which there is no host path yet."""
    sent, heard = send(ends)
    assert heard == Heard(ALL, ALL, whole=1500, syns=frozenset(PORTS))
    assert 0 < sent.rtt_us < 1_000_000
    assert sent == Sent(rtt_us=sent.rtt_us)


def test_a_smaller_mtu_behind_a_router_that_tells(ends: Ends) -> None:
    ends.router.ip("link set to_b mtu 1400")
    sent, heard = send(ends)
    assert (sent.told_mtu, heard.whole) == (1400, 1400)
    assert heard.passed == heard.arrived == {64, 1024}, "nobody fragments"


def test_a_smaller_mtu_behind_a_router_that_does_not(ends: Ends) -> None:
    ends.router.ip("link set to_b mtu 1400")
    rule(ends.a, "input", "icmpv6 type packet-too-big drop;")
    sent, heard = send(ends)
    assert (sent.told_mtu, heard.whole) == (0, 1400)
    assert heard.passed == {64, 1024}


def test_the_receivers_filter(ends: Ends) -> None:
    rule(ends.b, "input", f"udp dport {VXLAN_PORT} drop;")
    assert send(ends)[1] == Heard(ALL, frozenset(), whole=1500, syns=frozenset(PORTS))


def test_a_firewall_between(ends: Ends) -> None:
    rule(ends.router, "forward", f"udp dport {VXLAN_PORT} drop;")
    sent, heard = send(ends)
    assert heard == Heard(syns=frozenset(PORTS))
    assert sent.rtt_us > 0


def test_the_senders_filter(ends: Ends) -> None:
    rule(ends.a, "output", f"udp dport {VXLAN_PORT} drop; tcp dport 61000-65535 drop;")
    sent, heard = send(ends)
    assert heard == Heard()
    assert sent.refused == sent.syns_refused == os.strerror(1)


def test_pings_are_dropped(ends: Ends) -> None:
    rule(ends.router, "forward", "icmpv6 type echo-request drop;")
    sent, heard = send(ends)
    assert sent.rtt_us < 0
    assert heard.passed == ALL


def test_the_option_is_stripped(ends: Ends) -> None:
    rule(ends.router, "forward", "reset tcp option 254;")
    _, heard = send(ends)
    assert (heard.syns, heard.stripped) == (frozenset(), frozenset(PORTS))


def test_packets_arrive_changed(ends: Ends) -> None:
    """Their checksum keeps them from the overlay."""
    rule(ends.router, "forward", f"udp dport {VXLAN_PORT} udp length > 1200 @th,6400,16 set 0x1;")
    _, heard = send(ends)
    assert heard.damaged == {1430}
    assert heard.passed == {64, 1024}
    assert heard.arrived == ALL


def test_packets_are_translated(ends: Ends) -> None:
    ends.router.run("nft", "table ip6 t { chain c { type nat hook postrouting priority 100; "
                    f"meta l4proto udp snat to {B + 253}; }}; }}")
    assert send(ends)[1].seen_as == str(B + 253)


def test_nothing_gets_through(ends: Ends) -> None:
    rule(ends.router, "forward", "drop;")
    sent, heard = send(ends)
    assert heard == Heard()
    assert sent.rtt_us < 0
