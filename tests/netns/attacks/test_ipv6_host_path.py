"""Tests attacks on the host path over an IPv6 underlay: containers, hosts' programs, strangers.

Containers are root in their namespace here, with raw and packet sockets.
"""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.netns import inside
from tests.netns.attacks.attack import (
    EXPERIMENT,
    EXPERIMENT6,
    OPTION_KIND,
    endpoint,
    mac,
    send,
)
from tests.netns.overlay.test_ipv6_underlay import HERE6, THERE6, Pair, cluster6, machines6, pair
from tests.netns.talk import Program, client, counted, host_path, run, server, start
from tests.support.run.wait import wait_until
from tests.support.world.machines import VXLAN_PORT, Cluster, Container, Machine

__all__ = ["cluster6", "machines6", "pair"]

STRANGER = "fd00:198:18:77::254"  # the wire's own address, of no host
ROUTED = "02:00:00:00:00:01"  # a group's address would not be routed
_HOLD = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6)
    assert asked(c) == b"hello"
    print(c.getsockname()[1], flush=True)
    sys.stdin.readline()
    assert asked(c) == b"hello"
"""


def _option(caller: int, virtual: int = 80, *, kind: int = OPTION_KIND,
            experiment: int = EXPERIMENT6) -> list[tuple[int, bytes]]:
    return [(kind, b"".join(n.to_bytes(2, "big") for n in (experiment, virtual, caller)))]


def _segment(source: object, sport: int, to: object, dport: int,
             flags: str = "S", **fields: object) -> Packet:
    return IPv6(src=str(source), dst=str(to)) / TCP(sport=sport, dport=dport, flags=flags, **fields)


def _held(here: Container, there: Container) -> tuple[Program, int]:
    """Open a connection on the host path, and keep it."""
    server(there, address="::")
    program = start(here, _HOLD, THERE6)
    return program, int(program.line())


def _send(container: Container, *packets: Packet) -> None:
    send(container, [Ether(src="02:00:00:00:00:02", dst=ROUTED) / each for each in packets])


@pytest.mark.parametrize("port", [5555, None])
def test_the_hosts_source_without_a_connection(pair: Pair, port: int | None) -> None:
    """From any port, even the container's own endpoint port, to containers and hosts."""
    here, there = pair
    own, peer = here.machine.underlay, endpoint(there)
    sport = port or endpoint(here).port
    with counted(here, there) as total:
        for target, dport in ((peer.underlay, peer.port), (peer.underlay, 22), (STRANGER, 80),
                              ("2001:db8::1", 443), (THERE6, 80), ("ff02::1", 80)):
            _send(here, *(_segment(own, sport, target, dport, flags,
                                   options=_option(endpoint(here).port))
                          for flags in ("S", "A", "SA", *(["R"] if port else ()))))
    drops = 6 * 4 if port else 6 * 3
    assert total == {"foreign_flow": drops - 6, "late_ack": 6}


def test_the_hosts_source_for_anything_but_plain_tcp(pair: Pair) -> None:
    """Also behind extension headers, within a connection of its own."""
    here, there = pair
    program, sport = _held(here, there)
    own, peer = str(here.machine.underlay), endpoint(there)
    ip = IPv6(src=own, dst=str(peer.underlay))
    segment = TCP(sport=sport, dport=peer.port, flags="A")
    forged = [ip / UDP(sport=5, dport=VXLAN_PORT) / Raw(b"x"), ip / ICMPv6EchoRequest(),
              ip / IPv6ExtHdrHopByHop() / segment, ip / IPv6ExtHdrRouting() / segment,
              ip / IPv6ExtHdrFragment() / segment,
              ip / IPv6ExtHdrFragment(offset=9) / Raw(b"x" * 9),
              IPv6(src=own, dst=str(peer.underlay), nh=6) / Raw(b"short")]
    with counted(here, there) as total:
        _send(here, *forged)
    assert total == {"spoofed_source": len(forged)}
    program.say("go on")
    program.rest()


def test_addresses_that_programs_may_bind_to(pair: Pair) -> None:
    """Binding to any address is allowed inside; packets from it leave only as a connection's."""
    here, there = pair
    server(there, address="::")
    with counted(here, there) as total:
        said = run(here, """
            own, peer, port, virtual = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
            def attempt(bind, to):
                c = socket.socket(socket.AF_INET6)
                c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
                c.bind((bind, 0))
                return error_of(lambda: c.connect(to))
            for to in ((peer, port), (peer, 22), (virtual, 80)):
                print(attempt(own, to))
            print(attempt(peer, (virtual, 80)))
            print(attempt("fd00:32::9", (virtual, 80)))
            d = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            d.bind((own, 0))
            print(error_of(lambda: d.sendto(b"x", (peer, 53))))
        """, here.machine.underlay, there.machine.underlay, endpoint(there).port, THERE6).split()
    assert said[:3] == ["ETIMEDOUT"] * 3
    assert not {"none"} & set(said[3:5])
    assert not set(total) & {"connected", "accepted", "overlay_received"}
    assert total["foreign_flow"] >= 3
    assert total["spoofed_source"] >= 2


def test_another_containers_connection(pair: Pair) -> None:
    here, there = pair
    thief = here.machine.container("10.32.0.4/16", address6="fd00:32::4/64")
    program, sport = _held(here, there)
    own, peer = here.machine.underlay, endpoint(there)
    with counted(thief, there) as total:
        _send(thief, *(_segment(own, sport, peer.underlay, peer.port, flags,
                                options=_option(endpoint(thief).port))
                       for flags in ("S", "R", "A", "PA", "F")))
    assert total == {"foreign_flow": 5}
    program.say("go on")
    program.rest()


def test_a_syn_that_names_another_caller(pair: Pair) -> None:
    """The flow is its own, so that only the option is wrong."""
    here, there = pair
    other = here.machine.container("10.32.0.4/16", address6="fd00:32::4/64")
    program, sport = _held(here, there)
    own, peer = here.machine.underlay, endpoint(there)
    with counted(here, there) as total:
        _send(here, *(_segment(own, sport, peer.underlay, peer.port, options=options)
                      for options in (_option(endpoint(other).port), [],
                                      _option(endpoint(here).port, kind=253),
                                      _option(endpoint(here).port, experiment=1))))
    assert total == {"forged_option": 4}
    program.say("go on")
    program.rest()


def test_the_other_family_in_the_option_of_ones_own_connection(pair: Pair) -> None:
    """Nobody calls IPv4 addresses over IPv6: their listener might be one for IPv4."""
    here, there = pair
    program, sport = _held(here, there)
    peer = endpoint(there)
    before = there.machine.counters()["syn_no_option"]
    with counted(here, there) as total:
        _send(here, _segment(here.machine.underlay, sport, peer.underlay, peer.port,
                             options=_option(endpoint(here).port, experiment=EXPERIMENT)))
        wait_until(lambda: there.machine.counters()["syn_no_option"] > before, 30, "the SYN")
    assert total == {"syn_no_option": 1}
    program.say("go on")
    program.rest()


def test_syns_from_the_host_and_from_outside(machines6: list[Machine], cluster6: Cluster,
                                             pair: Pair) -> None:
    """By whichever source, and in whichever name."""
    here, there = pair
    stranger = machines6[0].container("10.32.0.2/16", vni=2, address6=f"{HERE6}/64")
    server(there, address="::")
    to, host, own = endpoint(there), machines6[0].underlay, machines6[1].underlay
    port, other = endpoint(here).port, endpoint(stranger).port
    syns = [(STRANGER, []), (host, []), (STRANGER, _option(port)), (host, _option(61999)),
            ("::", _option(port)), ("::1", _option(port)), (HERE6, _option(port)),
            ("::ffff:198.18.77.1", _option(port)), (own, _option(to.port)), (host, _option(other))]
    before = machines6[1].counters()["syn_other_network"]
    with counted(there) as total:
        send(cluster6.wire, [Ether(dst=mac(machines6[1].netns))
                             / _segment(source, 40000, to.underlay, to.port, options=options)
                             for source, options in syns], interface="br0")
        wait_until(lambda: machines6[1].counters()["syn_other_network"] > before, 30, "the last")
    # The one from the host itself is a martian, for the kernel to drop.
    assert total == {"syn_no_option": 2, "syn_unknown_caller": 6, "syn_other_network": 1}


def test_strangers_segments_to_an_endpoint_port(cluster6: Cluster, pair: Pair) -> None:
    """With the ports of an open connection: another source is another connection."""
    here, there = pair
    program, sport = _held(here, there)
    to = endpoint(there)
    last = _segment(here.machine.underlay, 41000, to.underlay, to.port)
    before = there.machine.counters()["syn_no_option"]
    with counted(there) as total:
        send(cluster6.wire, [Ether(dst=mac(there.machine.netns)) / each for each in (
            *(_segment(STRANGER, sport, to.underlay, to.port, flags)
              for flags in ("R", "RA", "A", "F", "SA", "PA")), last)], interface="br0")
        wait_until(lambda: there.machine.counters()["syn_no_option"] > before, 30, "the last")
    assert total == {"syn_no_option": 1}
    program.say("go on")
    program.rest()


def test_frames_for_another_machine(machines6: list[Machine], cluster6: Cluster, pair: Pair
                                    ) -> None:
    """A switch floods them; they have the host's IP address but not its MAC."""
    to = endpoint(pair[1])
    syn = _segment(STRANGER, 40000, to.underlay, to.port)
    before = machines6[1].counters()["syn_no_option"]
    with counted(pair[1]) as total:
        send(cluster6.wire, [Ether(dst=destination) / syn for destination in (
            "02:00:00:00:00:99", "33:33:00:00:00:01", mac(machines6[1].netns))], interface="br0")
        wait_until(lambda: machines6[1].counters()["syn_no_option"] > before, 30, "the last one")
    assert total == {"syn_no_option": 1}


def test_programs_of_hosts_and_outsiders_cannot_connect(
        machines6: list[Machine], cluster6: Cluster, pair: Pair) -> None:
    _, there = pair
    server(there, address="::")
    to = endpoint(there)

    def attempt() -> str:
        with socket.socket(socket.AF_INET6) as c:
            c.setsockopt(socket.IPPROTO_TCP, inside.TCP_USER_TIMEOUT, 300)
            return inside.error_of(lambda: c.connect((str(to.underlay), to.port)))

    with counted(there) as total:
        assert cluster6.wire.call(attempt) == "ETIMEDOUT"
        assert machines6[0].netns.call(attempt) == "ETIMEDOUT"
        assert machines6[1].netns.call(attempt) == "ECONNREFUSED"  # never reaches a container
    assert set(total) == {"syn_no_option"}


def test_two_networks_with_the_same_addresses(machines6: list[Machine]) -> None:
    made = [(machines6[0].container("10.32.0.2/16", vni=vni, address6=f"{HERE6}/64"),
             machines6[1].container("10.32.0.3/16", vni=vni, address6=f"{THERE6}/64"))
            for vni in (1, 2)]
    for number, (_, there) in enumerate(made):
        server(there, 80 + number, address="::")
    (one, there), (two, _) = made
    with host_path(one, there, connections=2):
        client(one, THERE6, 80)
        client(two, THERE6, 81)
    for caller, port in ((one, 81), (two, 80)):
        with counted(one, there) as total:
            assert run(caller, """
                print(error_of(lambda: connected(sys.argv[1], int(sys.argv[2]),
                                                 family=socket.AF_INET6)))
            """, THERE6, port) == "ECONNREFUSED"
        assert total == {"no_listener": 1}
