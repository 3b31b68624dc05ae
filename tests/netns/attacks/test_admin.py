"""Tests containers with CAP_NET_ADMIN: they may cut themselves off, and gain nothing.

Root in the namespace makes each change; then the container tries to speak in another's name.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from driver.link.netlink.names import HOST_PATH_MARK, HOST_PATH_TABLE
from tests.netns.attacks.attack import Tap, Victim, endpoint, segment, send, syn_option, victim
from tests.netns.talk import best_path, client, counted, run
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]

CHANGES = {
    "rules deleted": "rule flush; rule add lookup main; rule add pref 5 lookup local",
    "filter deleted": "tc qdisc del dev eth0 clsact",
    "host's address": "addr add {own} dev lo; addr add {own}/32 dev eth0",
    "peer's address": "addr add {peer} dev lo",
    "neighbour's address": "addr add {neighbour}/16 dev eth0",
    "MAC": "link set eth0 address 02:11:22:33:44:55",
    "neighbour's MAC": "link set eth0 address {mac}",
    "another MTU": "link set eth0 mtu 9000",
    "ARP on": "link set eth0 arp on",
    "down and up": "link set eth0 down; link set eth0 up",
    "its own bridge": "link add b0 type bridge; link set eth0 master b0; link set b0 up",
    "queueing": "tc qdisc replace dev eth0 root tbf rate 1mbit burst 10k latency 1s",
}


@pytest.fixture
def live(pair: Pair) -> Victim:
    return victim(*pair)


@pytest.fixture
def thief(machines: list[Machine]) -> Container:
    return machines[0].container("10.32.0.4/16")


def _change(thief: Container, live: Victim, text: str) -> None:
    names = {"own": thief.machine.underlay, "peer": endpoint(live.there).underlay,
             "neighbour": live.here.address, "mac": endpoint(live.here).mac.hex(":")}
    for command in text.format(**names).split("; "):
        words = command.split()
        thief.netns.run(*(words if words[0] == "tc" else ["ip", *words]))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_gains_nothing(thief: Container, live: Victim, change: str) -> None:
    own, to = str(thief.machine.underlay), endpoint(live.there)
    _change(thief, live, change)
    forged = [segment(own, live.port, str(to.underlay), to.port, "R", seq=1),
              segment(own, 40000, str(to.underlay), to.port,
                      options=syn_option(80, endpoint(live.here).port)),
              segment(own, 22, str(to.underlay), 40000, "PA", b"evil"),
              IP(src=live.here.address, dst=live.there.address) / UDP() / Raw(b"evil"),
              IP(src=str(to.underlay), dst=live.here.address) / UDP() / Raw(b"evil")]
    taps = [Tap(live.here), Tap(live.there)]
    before = thief.machine.counters()
    send(thief, forged)
    after = thief.machine.counters()
    assert after["foreign_flow"] - before["foreign_flow"] == 3
    assert after["spoofed_source"] - before["spoofed_source"] >= 2
    assert not any(tap.frames() for tap in taps)
    assert live.lives()
    # The thief's bridge sends by itself (MLD), from an address that is not the endpoint's.
    with best_path(live.here, live.there, also={"spoofed_source"}):
        client(live.here, live.there.address)


# A socket that takes the host's name: bound to U, by mark, or both.
_AS_HOST = """
    c = socket.socket()
    c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
    c.settimeout(3)
    if {mark}:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, {mark})
    if {bind!r}:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        c.bind(({bind!r}, {port}))
    print(error_of(lambda: c.connect(({address!r}, {to}))))
"""


@pytest.mark.parametrize("mark", [0, HOST_PATH_MARK])
def test_a_socket_in_the_hosts_name(thief: Container, live: Victim, mark: int) -> None:
    """Any program may bind to U without a capability; its packets get no further than the veth."""
    own, to = str(thief.machine.underlay), endpoint(live.there)
    thief.netns.ip("route add default dev eth0")
    with counted(thief, live.there) as total:
        for bind, port, address, target in (
                (own, 0, str(to.underlay), 22), (own, live.port, str(to.underlay), to.port),
                (own, endpoint(live.here).port, str(to.underlay), 40000),
                ("", 0, str(to.underlay), to.port), (own, 0, "198.18.77.254", 80)):
            said = run(thief, _AS_HOST.format(mark=mark, bind=bind, port=port, address=address,
                                              to=target))
            assert said in ("ETIMEDOUT", "timeout"), (bind, port, target, said)
    assert set(total) <= {"foreign_flow", "unknown_destination", "spoofed_source"}, total
    assert total["foreign_flow"] >= 4
    assert live.lives()


def test_datagrams_in_the_hosts_name(thief: Container, live: Victim) -> None:
    """They leave by the host path's own routing table."""
    own, to = str(thief.machine.underlay), endpoint(live.there)
    assert "dev eth0" in thief.netns.ip(f"route show table {HOST_PATH_TABLE}")
    with counted(thief, live.there) as total:
        run(thief, f"""
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind(({own!r}, 14789))
            s.sendto(b"evil", ({str(to.underlay)!r}, 14789))
        """)
    assert total == {"spoofed_source": 1}
    assert live.lives()


def test_translation_of_its_own_connections(thief: Container, live: Victim) -> None:
    """NAT inside the container gives them addresses that are not on record."""
    thief.netns.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-p", "tcp", "-j", "SNAT", "--to",
                    f"{thief.machine.underlay}:{live.port}")
    with counted(thief, live.there) as total:
        said = run(thief, f"""
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            print(error_of(lambda: c.connect(({live.there.address!r}, 80))))
        """)
    if live.there.machine is thief.machine:
        assert said == "ETIMEDOUT"
        assert total.pop("local") == 1
        assert set(total) == {"foreign_flow"}
    else:  # host path packets are not tracked, so NAT does not change them
        assert said == "none"
        assert total == {"connected": 1, "accepted": 1}
    assert live.lives()


def test_forwarding_for_another_network(machines: list[Machine], live: Victim) -> None:
    """A container on two networks routes between them; only its own addresses leave it."""
    router = machines[0].container("10.32.0.4/16", "10.33.0.4/16")
    guest = machines[0].container("10.33.0.5/16", vni=2)
    router.netns.sysctl("ipv4.ip_forward", 1)
    guest.netns.ip("route add 10.32.0.0/16 dev eth0")
    tap = Tap(live.there)
    with counted(guest, live.there) as total:
        send(guest, IP(src=guest.address, dst=live.there.address) / UDP() / Raw(b"evil"))
        send(router, IP(src=guest.address, dst=live.there.address) / UDP() / Raw(b"evil"))
    assert total == {"unknown_destination": 1, "spoofed_source": 1}
    assert not tap.frames()
    assert live.lives()


def test_it_deletes_its_interface(thief: Container, live: Victim) -> None:
    """Both ends go; removing the endpoint still works (the fixture looks for leftovers)."""
    thief.netns.ip("link del eth0")
    assert not Path(f"/sys/class/net/{thief.endpoints[0][1].host_name}").exists()
    thief.machine.disconnect(thief, endpoint(thief))
    thief.machine.containers.remove(thief)
    assert live.lives()
