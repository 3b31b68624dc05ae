"""Tests the overlay path between hosts whose network has IPv6 only."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from driver.datapath.loading import bpf
from tests.netns.overlay.test_overlay import _GROUP_RECEIVER, _GROUP_SENDER
from tests.netns.talk import (
    UDP_CLIENT,
    UDP_SERVER,
    client,
    counted,
    flows,
    overlay,
    run,
    server,
    started,
)
from tests.support.run.wait import wait_until
from tests.support.world.machines import VXLAN_PORT, Cluster, Container, Machine, lent
from tests.support.world.netns import require_root

Pair = tuple[Container, Container]
HERE6, THERE6 = "fd00:32::2", "fd00:32::3"


@pytest.fixture(scope="module")
def cluster6() -> Iterator[Cluster]:
    require_root()
    with ExitStack() as stack:
        made = Cluster(stack, over_ipv6=True)
        for _ in range(2):
            made.add_machine()
        yield made


@pytest.fixture
def machines6(cluster6: Cluster) -> Iterator[list[Machine]]:
    with lent(cluster6) as found:
        yield found


@pytest.fixture
def pair(machines6: list[Machine]) -> Pair:
    """On two hosts, with addresses of both families."""
    return (machines6[0].container("10.32.0.2/16", address6=f"{HERE6}/64"),
            machines6[1].container("10.32.0.3/16", address6=f"{THERE6}/64"))


def test_ping(pair: Pair) -> None:
    here, there = pair
    for address in (there.address, THERE6):
        with overlay(here, there) as total:
            here.run("ping", "-c3", "-i0.05", "-W2", address)
        assert total == {"overlay_sent": 6, "overlay_received": 6, "by_device": 12}


@pytest.mark.parametrize("size", [0, 1300, 8000, 60000])
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_udp(pair: Pair, family: str, size: int) -> None:
    here, there = pair
    own, target = (here.address, there.address) if family == "AF_INET" else (HERE6, THERE6)
    started(there, UDP_SERVER, family)
    with overlay(here, there):
        assert run(here, UDP_CLIENT, family, target, size) == f"{own} {target}"


@pytest.mark.parametrize("target", ["10.32.0.3", "::ffff:10.32.0.3"])
def test_tcp_takes_the_overlay_path(pair: Pair, target: str) -> None:
    """To IPv6 addresses it takes the host path: host_path/test_ipv6_underlay.py."""
    here, there = pair
    server(there, address="::" if ":" in target else "0.0.0.0")
    own = target.replace(there.address, here.address)
    with overlay(here, there, because="ipv6_underlay") as total:
        names = client(here, target).split()
    assert [names[0], *names[2:]] == [own, target, "80"]
    assert total["ipv6_underlay"] == 1
    assert flows(here) == flows(there) == 0


def test_a_large_transfer(pair: Pair) -> None:
    """The kernel cuts the sender's offloaded segments to fit the tunnel."""
    here, there = pair
    server(there)
    with overlay(here, there, because="ipv6_underlay"):
        assert run(here, """
            c = connected(sys.argv[1], 80)
            data = os.urandom(3_000_000)
            threading.Thread(target=c.sendall, args=(data,)).start()
            print(exactly(c, len(data)) == data)
        """, there.address) == "True"


def test_the_connected_route_leaves_room_for_the_tunnel(pair: Pair) -> None:
    here, there = pair
    assert "mtu 1430" in here.netns.ip("route show 10.32.0.0/16")
    assert "mtu 1430" in here.netns.ip("-6 route show fd00:32::/64")
    for fits, check in ((1430, True), (1431, False)):
        done = here.run("ping", "-c1", "-W2", "-M", "do", "-s", str(fits - 28), there.address,
                        check=False)
        assert (done.returncode == 0) is check


@pytest.mark.parametrize("group", ["10.32.255.255", "255.255.255.255", "239.1.2.3"])
def test_everybody_in_the_network_hears_it_once(machines6: list[Machine], group: str) -> None:
    here = machines6[0].container("10.32.0.2/16")
    hearers = [machines6[0].container("10.32.0.3/16"), machines6[1].container("10.32.0.4/16"),
               machines6[1].container("10.32.0.5/16")]
    programs = [started(each, _GROUP_RECEIVER, group, each.address) for each in hearers]
    with counted(here, hearers[1]) as total:
        run(here, _GROUP_SENDER, group, here.address)
        for program in programs:
            assert program.rest() == f"once end {here.address}"
    assert total["flooded"] >= 4  # two packets, at the sender's host and at the other one
    assert not {"tunnel_failed", "unknown_destination", "overlay_no_endpoint"} & set(total)


def test_what_is_on_the_wire(cluster6: Cluster, pair: Pair) -> None:
    """VXLAN with both hosts' U outside, and a checksum, whatever other addresses a host has."""
    here, there = pair
    host = here.machine.netns
    host.ip("addr add fd00:198:18:77::ffff/64 dev eth0 nodad")
    raw = cluster6.wire.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                   socket.htons(3)))  # ETH_P_ALL
    try:
        raw.bind(("p1", 0))
        raw.settimeout(10)
        here.run("ping", "-c1", "-W2", there.address)
        while True:
            packet = Ether(raw.recv(65535))
            if packet.haslayer(UDP) and packet[UDP].dport == VXLAN_PORT:
                break
    finally:
        raw.close()
        host.ip("addr del fd00:198:18:77::ffff/64 dev eth0")
    outer = packet[IPv6]
    assert (outer.src, outer.dst, outer.hlim) == (
        str(here.machine.underlay), str(there.machine.underlay), 64)
    assert packet[UDP].chksum != 0
    assert VXLAN(bytes(packet[UDP].payload)).vni == 1


def test_on_one_host_it_is_as_ever(machines6: list[Machine]) -> None:
    here, there = (machines6[0].container(f"10.32.0.{n}/16") for n in (2, 3))
    server(there)
    with overlay(here, there, because="local"):
        client(here, there.address)


def test_a_service(machines6: list[Machine], cluster6: Cluster, pair: Pair) -> None:
    here, there = pair
    server(there)
    with (cluster6.service("10.32.0.99", there.address),
          overlay(here, there, because="ipv6_underlay")):
        names = client(here, "10.32.0.99").split()
    assert names[2:] == ["10.32.0.99", "80"]


def test_a_host_that_is_gone(pair: Pair) -> None:
    """connect() fails at once, as over IPv4."""
    here, there = pair
    here.machine.datapath.refuse_hosts([there.machine.underlay])
    try:
        with counted(here) as total:
            assert run(here, """
                try:
                    connected(sys.argv[1], 80)
                except OSError as error:
                    print(error.errno)
            """, there.address) == "113"
        assert total == {"host_dead": 1}
    finally:
        here.machine.datapath.refuse_hosts([])


def test_another_driver_finds_the_same_numbers(machines6: list[Machine], pair: Pair) -> None:
    """What it reads back names the hosts' addresses; new ones get numbers of their own."""
    from driver.datapath.loading.host_numbers import HostNumbers
    machine, underlays = machines6[0], {each.underlay for each in machines6}
    assert {each.underlay for each in machine.datapath.list_remotes()} == underlays
    tables = {name: machine.loaded.table(name) for name in ("hosts6", "numbers6")}
    again = HostNumbers(tables)
    assert {again.number(each) for each in underlays} == {
        machine.loaded.hosts.number(each) for each in underlays}
    assert len(list(bpf.entries(tables["hosts6"]))) == len(underlays)
    tables["numbers6"].clear()  # a driver that died between the two
    HostNumbers(tables)
    here, there = pair
    wait_until(lambda: here.run("ping", "-c1", "-W1", there.address, check=False).returncode == 0,
               10, "packets to be let in again")


def test_a_router_between_the_hosts() -> None:
    require_root()
    with ExitStack() as stack:
        cluster = Cluster(stack, over_ipv6=True)
        here, there = (cluster.add_machine(subnet).container(f"10.32.0.{n}/16")
                       for n, subnet in enumerate((77, 78), 2))
        server(there)
        with overlay(here, there, because="ipv6_underlay"):
            assert client(here, there.address).split()[2:] == [there.address, "80"]
