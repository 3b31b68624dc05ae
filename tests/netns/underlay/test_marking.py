"""Tests the marked packets of `slim test` across a router: each size, the path's MTU, and filters.

No driver runs: the sockets are opened in two namespaces, each with a VXLAN device like slim's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from driver.link.underlay.marking import KernelMarker
from driver.link.underlay.vxlan import create_vxlan, overlay_mtu
from driver.services.ports import Heard, Marking, Sent, Target
from tests.support.world.machines import VXLAN_PORT
from tests.support.world.netns import Netns, join

A, B = IPv4Address("198.18.7.1"), IPv4Address("198.18.8.1")
PORTS = (61000, 65535)
SIZES = (64, 1024, 1450)
WHOLE = (1500, 1492, 1400, 1380)
ALL = frozenset(SIZES)


@dataclass
class Ends:
    """Two hosts, and the router between them."""

    a: Netns
    b: Netns
    router: Netns
    from_a: Marking
    from_b: Marking

    def send(self) -> tuple[Sent, Heard]:
        """Send from a to b; return what both know."""
        for _ in range(2):  # while addresses are asked for, packets may be lost
            self.from_a.send([Target(B, VXLAN_PORT, PORTS, SIZES, WHOLE)])
            self.from_a.listen(0.3)
            self.from_b.listen(0.1)
        return self.from_a.sent()[B], self.from_b.heard().get(A, Heard())


@pytest.fixture
def ends(make_netns: Callable[[str], Netns]) -> Iterator[Ends]:
    a, b, router = make_netns("a"), make_netns("b"), make_netns("router")
    router.sysctl("ipv4.ip_forward", 1)
    token = secrets.token_bytes(8)
    with ExitStack() as stack:
        opened = []
        for host, address, name in ((a, A, "to_a"), (b, B, "to_b")):
            join(host, "eth0", router, name)
            gateway = IPv4Address(int(address) + 253)
            host.ip(f"addr add {address}/24 dev eth0")
            router.ip(f"addr add {gateway}/24 dev {name}")
            host.ip(f"route add default via {gateway}")
            host.call(lambda: create_vxlan(VXLAN_PORT, overlay_mtu(1500)))
            marker = KernelMarker(address, host.ifindex("eth0"), range(40000, 41000))
            opened.append(host.call(lambda m=marker: stack.enter_context(m.marking(token))))  # type: ignore[misc]
        yield Ends(a, b, router, *opened)


def rule(netns: Netns, hook: str, text: str) -> None:
    netns.run("nft", f"table ip fire {{ chain c {{ type filter hook {hook} priority 0; "
              f"{text} }}; }}")


def test_all_gets_through(ends: Ends) -> None:
    sent, heard = ends.send()
    assert heard == Heard(ALL, ALL, whole=1500, syns=frozenset(PORTS))
    assert 0 < sent.rtt_us < 1_000_000
    assert sent == Sent(rtt_us=sent.rtt_us)


def test_another_rounds_packets_are_not_heard(ends: Ends) -> None:
    other = ends.a.call(lambda: KernelMarker(A, ends.a.ifindex("eth0"), (40000,)))
    with ExitStack() as stack:
        marking = ends.a.call(lambda: stack.enter_context(other.marking(secrets.token_bytes(8))))
        marking.send([Target(B, VXLAN_PORT, PORTS, SIZES, WHOLE)])
        marking.listen(0.3)
        assert marking.sent()[B].rtt_us > 0
    ends.from_b.listen(0.1)
    assert ends.from_b.heard() == {}


def test_a_smaller_mtu_behind_a_router_that_tells(ends: Ends) -> None:
    ends.router.ip("link set to_b mtu 1400")
    sent, heard = ends.send()
    assert sent.told_mtu == 1400
    assert heard.whole == 1400
    assert heard.passed == ALL, "fragments arrive"


def test_a_smaller_mtu_behind_a_router_that_does_not(ends: Ends) -> None:
    ends.router.ip("link set to_b mtu 1400")
    rule(ends.a, "input", "icmp type destination-unreachable drop;")
    sent, heard = ends.send()
    assert (sent.told_mtu, heard.whole) == (0, 1400)
    assert heard.passed == ALL


def test_fragments_are_lost_too(ends: Ends) -> None:
    ends.router.ip("link set to_b mtu 1400")
    ends.b.run("nft", "table netdev fire { chain c { type filter hook ingress device eth0 "
               "priority 0; ip frag-off & 0x3fff != 0 drop; }; }")
    _, heard = ends.send()
    assert heard.whole == 1400
    assert 1450 not in heard.passed


def test_the_receivers_filter(ends: Ends) -> None:
    rule(ends.b, "input", f"udp dport {VXLAN_PORT} drop;")
    _, heard = ends.send()
    assert heard == Heard(ALL, frozenset(), whole=1500, syns=frozenset(PORTS))


def test_a_firewall_between(ends: Ends) -> None:
    rule(ends.router, "forward", f"udp dport {VXLAN_PORT} drop;")
    sent, heard = ends.send()
    assert heard == Heard(syns=frozenset(PORTS))
    assert sent.rtt_us > 0


def test_the_senders_filter(ends: Ends) -> None:
    rule(ends.a, "output", f"udp dport {VXLAN_PORT} drop; tcp dport 61000-65535 drop;")
    sent, heard = ends.send()
    assert heard == Heard()
    assert sent.refused == sent.syns_refused == os.strerror(1)


def test_syns_are_dropped(ends: Ends) -> None:
    rule(ends.router, "forward", "tcp dport 65535 drop;")
    assert ends.send()[1].syns == {61000}


def test_the_option_is_stripped(ends: Ends) -> None:
    rule(ends.router, "forward", "reset tcp option 254;")
    _, heard = ends.send()
    assert (heard.syns, heard.stripped) == (frozenset(), frozenset(PORTS))


def test_packets_arrive_changed(ends: Ends) -> None:
    """There is no UDP checksum that could tell."""
    rule(ends.router, "forward", f"udp dport {VXLAN_PORT} udp length > 1200 @th,6400,16 set 0x1;")
    _, heard = ends.send()
    assert heard.damaged == {1450}
    assert heard.passed == {64, 1024}
    assert heard.arrived == ALL


def test_packets_are_translated(ends: Ends) -> None:
    ends.router.run("nft", "table ip t { chain c { type nat hook postrouting priority 100; "
                    "ip protocol udp snat to 198.18.8.254; }; }")
    assert ends.send()[1].seen_as == "198.18.8.254"


def test_nothing_gets_through(ends: Ends) -> None:
    rule(ends.router, "forward", "drop;")
    sent, heard = ends.send()
    assert heard == Heard()
    assert sent.rtt_us < 0
