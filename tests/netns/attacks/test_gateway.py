"""Tests attacks through docker_gwbridge, which masquerades packets as the host's own.

They do not pass slim's programs on the sender's host; only the guard can stop them there.  A test
without the guard shows that the attacks are real.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw

from driver.link.underlay.guard import remove_guard
from tests.netns.attacks.attack import (
    Tap,
    Victim,
    endpoint,
    frame,
    mac,
    segment,
    send,
    syn_option,
    victim,
    vxlan,
)
from tests.netns.attacks.gateway import bridge, kernel_guard
from tests.netns.talk import counted, run
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

INSIDE = "172.28.0.2"


@pytest.fixture
def thief(machines: list[Machine]) -> Iterator[Container]:
    """A container of the first host with a second interface, as docker_gwbridge gives it."""
    host = machines[0].netns
    made = machines[0].container("10.32.0.4/16")
    with bridge(host) as gateway, gateway.masqueraded():
        assert gateway.join(made.netns, 2, "eth1") == INSIDE
        host.sysctl("ipv4.conf.all.rp_filter", 2)  # systemd's value
        host.sysctl("ipv4.conf.gw0.rp_filter", 2)
        try:
            yield made
        finally:
            host.call(remove_guard)


def _guard(machines: list[Machine]) -> None:
    """Install the guard on the sender's host, as its driver does."""
    hosts = [machine.underlay for machine in machines[1:]]
    machines[0].netns.call(lambda: kernel_guard(machines[0]).install(hosts))


def _dropped(machine: Machine) -> int:
    return machine.netns.call(kernel_guard(machine).dropped) or 0


def _out(thief: Container, packet: Packet) -> None:
    """Send through the gateway."""
    send(thief, frame(packet, destination=mac(thief.machine.netns, "gw0")), interface="eth1")


@pytest.fixture
def live(machines: list[Machine], thief: Container) -> Victim:
    """A connection in another network, which the thief is not on."""
    del thief
    here = machines[0].container("10.40.0.2/16", vni=9)
    return victim(here, machines[1].container("10.40.0.3/16", vni=9))


def _forged_syn(live: Victim) -> Packet:
    """A SYN that would be answered as if `live.here` had called."""
    to = endpoint(live.there)
    return segment(INSIDE, 40001, str(to.underlay), to.port,
                   options=syn_option(80, endpoint(live.here).port))


def _forged_datagram(live: Victim) -> Packet:
    inner = IP(src=live.here.address, dst=live.there.address) / UDP(dport=5000) / Raw(b"evil")
    return vxlan(9, inner, source=INSIDE, destination=str(endpoint(live.there).underlay))


def _forged_data(live: Victim) -> Packet:
    """Data with the ports of the live connection: NAT keeps them, since it does not track that."""
    to = endpoint(live.there)
    return segment(INSIDE, live.port, str(to.underlay), to.port, "PA", b"evil", seq=1, ack=1)


def _forged_answer(live: Victim) -> Packet:
    """The other direction: a packet from this host's endpoint port."""
    own = endpoint(live.here)
    return segment(INSIDE, own.port, str(endpoint(live.there).underlay), 40000, "R", seq=1)


ATTACKS = [_forged_syn, _forged_datagram, _forged_data, _forged_answer]


@pytest.mark.parametrize("attack", ATTACKS[:3], ids=lambda attack: attack.__name__)
def test_without_the_guard_it_would_get_through(
        thief: Container, live: Victim, attack: Callable[[Victim], Packet]) -> None:
    """The attacks that the next test sends must be real."""
    tap = Tap(live.there)
    _out(thief, attack(live))
    tap.wait_for(1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_guard_drops_it(machines: list[Machine], thief: Container, live: Victim,
                            attack: Callable[[Victim], Packet]) -> None:
    _guard(machines)
    tap = Tap(live.there)
    with counted(live.there) as total:
        _out(thief, attack(live))
        wait_until(lambda: _dropped(machines[0]) == 1, 30, "the guard's counter")
        assert not tap.frames()
        assert live.lives()
    assert not total


def _spoofed_peer(live: Victim) -> Packet:
    """A packet to this host in the other host's name: loose reverse-path filters let it in."""
    inner = IP(src=live.there.address, dst=live.here.address) / UDP(dport=5000) / Raw(b"evil")
    return vxlan(9, inner, source=str(endpoint(live.there).underlay),
                 destination=str(endpoint(live.here).underlay))


@pytest.mark.parametrize("guarded", [False, True])
def test_overlay_packets_come_from_the_underlay_only(
        machines: list[Machine], thief: Container, live: Victim, guarded: bool) -> None:
    if guarded:
        _guard(machines)
    tap = Tap(live.here)
    _out(thief, _spoofed_peer(live))
    if guarded:
        wait_until(lambda: _dropped(machines[0]) == 1, 30, "the guard's counter")
        assert not tap.frames()
    else:
        tap.wait_for(1)
    assert live.lives()


def test_what_is_nobodys_business_passes(machines: list[Machine], thief: Container) -> None:
    """Ordinary traffic by the gateway, to peers and elsewhere, and slim's own overlay packets."""
    _guard(machines)
    there = machines[1].container("10.32.0.3/16")
    outside = machines[1].cluster.wire
    for namespace, address, port in ((machines[1].netns, str(machines[1].underlay), 8080),
                                     (outside, "198.18.77.254", 61000)):
        with namespace.call(lambda a=address, p=port: socket.create_server((a, p))) as listener:
            assert run(thief, f"print(error_of(lambda: connected({address!r}, {port})))") == "none"
            listener.accept()[0].close()
    assert thief.run("ping", "-c1", "-W2", there.address).returncode == 0
    assert _dropped(machines[0]) == 0


def test_scanning_the_endpoint_ports(machines: list[Machine], thief: Container, live: Victim
                                     ) -> None:
    """The scan uses ordinary connect() calls, which take the gateway."""
    _guard(machines)
    to = endpoint(live.there)
    scan = f"""
        for port in ({to.port}, 61000, 65535):
            s = socket.socket()
            s.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            print(error_of(lambda: s.connect(({str(to.underlay)!r}, port))))
    """
    with counted(live.there) as total:
        assert set(run(thief, scan).split()) == {"ETIMEDOUT"}
    assert not total
    assert _dropped(machines[0]) >= 3
    assert live.lives()
