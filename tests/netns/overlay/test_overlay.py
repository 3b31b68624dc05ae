"""Tests the overlay path: ping, UDP, fragments, IPv6, broadcast and multicast in a network."""

from __future__ import annotations

import pytest

from tests.netns.talk import (
    UDP_CLIENT,
    UDP_SERVER,
    Program,
    counted,
    overlay,
    run,
    start,
    started,
)
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]


@pytest.fixture(params=["two hosts", "one host"])
def pair6(request: pytest.FixtureRequest, machines: list[Machine]) -> Pair:
    """Two containers with addresses of both families."""
    other = machines[1 if request.param == "two hosts" else 0]
    here, there = machines[0].container(), other.container()
    machines[0].connect(here, "10.32.0.2/16", address6="fd00:32::2/64")
    other.connect(there, "10.32.0.3/16", address6="fd00:32::3/64")
    return here, there


def test_ping(pair: Pair) -> None:
    here, there = pair
    with overlay(here, there) as total:
        here.run("ping", "-c3", "-i0.05", "-W2", there.address)
    assert sum(total.get(name, 0) for name in ("overlay_local", "overlay_sent")) == 6


@pytest.mark.parametrize("size", [0, 1400, 8000, 60000])
def test_udp(pair: Pair, size: int) -> None:
    here, there = pair
    seen = started(there, UDP_SERVER, "AF_INET")
    with overlay(here, there) as total:
        said = run(here, UDP_CLIENT, "AF_INET", there.address, size)
    assert said == f"{here.address} {there.address}"
    assert seen.line() == f"{size} {here.address}"
    packets = sum(total.get(name, 0) for name in ("overlay_local", "overlay_sent"))
    assert packets >= 2 * (size // 1430 + 1)


def test_the_connected_route_leaves_room_for_the_tunnel(pair: Pair) -> None:
    here, there = pair
    assert "mtu 1450" in here.netns.ip("route show 10.32.0.0/16")
    assert "mtu 1500" in here.netns.ip("link show eth0")
    here.run("ping", "-c1", "-W2", "-M", "do", "-s", str(1450 - 28), there.address)
    too_long = here.run("ping", "-c1", "-W2", "-M", "do", "-s", str(1450 - 27), there.address,
                        check=False)
    assert too_long.returncode != 0


def test_a_large_transfer_over_the_overlay(pair: Pair) -> None:
    """The kernel cuts the sender's offloaded segments to fit the tunnel."""
    here, there = pair
    started(there, 'serve(listen("0.0.0.0", 80))')
    with overlay(here, there, because="bound_address"):
        assert run(here, """
            c = connected(sys.argv[1], 80, bind=(sys.argv[2], 0))
            data = os.urandom(3_000_000)
            threading.Thread(target=c.sendall, args=(data,)).start()
            print(exactly(c, len(data)) == data)
        """, there.address, here.address) == "True"


def test_ipv6_ping(pair6: Pair) -> None:
    here, there = pair6
    with overlay(here, there):
        here.run("ping", "-6", "-c2", "-i0.05", "-W2", "fd00:32::3")


@pytest.mark.parametrize("size", [5, 8000])
def test_ipv6_udp(pair6: Pair, size: int) -> None:
    here, there = pair6
    started(there, UDP_SERVER, "AF_INET6")
    with overlay(here, there):
        assert run(here, UDP_CLIENT, "AF_INET6", "fd00:32::3", size) == "fd00:32::2 fd00:32::3"


def test_ipv6_tcp(pair6: Pair) -> None:
    here, there = pair6
    seen = started(there, 'serve(listen("::", 80, family=socket.AF_INET6))')
    with overlay(here, there, because="ipv6_only"):
        own = run(here, """
            c = connected("fd00:32::3", 80, family=socket.AF_INET6, bind=("::", 5555))
            data = bytes(1_000_000)
            threading.Thread(target=c.sendall, args=(data,)).start()
            assert exactly(c, len(data)) == data
            print(names(c))
        """).split()
    assert [own[0], *own[2:]] == ["fd00:32::2", "fd00:32::3", "80"]
    assert seen.line().split() == ["fd00:32::3", "80", "fd00:32::2", own[1]]


_GROUP_RECEIVER = """
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 5000))
    if sys.argv[1] == "239.1.2.3":
        s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                     socket.inet_aton(sys.argv[1]) + socket.inet_aton(sys.argv[2]))
    ready()
    s.settimeout(5)
    got = []
    while not got or got[-1] != "end":
        data, peer = s.recvfrom(100)
        got.append(data.decode())
    print(*got, peer[0])
"""
_GROUP_SENDER = """
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[2]))
    if sys.argv[1] == "255.255.255.255":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    for word in ("once", "end"):
        s.sendto(word.encode(), (sys.argv[1], 5000))
"""


@pytest.mark.parametrize("group", ["10.32.255.255", "255.255.255.255", "239.1.2.3"])
def test_everybody_in_the_network_hears_it_once(machines: list[Machine], group: str) -> None:
    here = machines[0].container("10.32.0.2/16")
    hearers = [machines[0].container("10.32.0.3/16"), machines[1].container("10.32.0.4/16"),
               machines[1].container("10.32.0.5/16")]
    stranger = machines[1].container("10.32.0.6/16", vni=2)
    programs = [started(c, _GROUP_RECEIVER, group, c.address) for c in hearers]
    deaf: Program = started(stranger, _GROUP_RECEIVER, group, stranger.address)
    with counted(here, hearers[1]) as total:
        run(here, _GROUP_SENDER, group, here.address)
        for program in programs:
            assert program.rest() == f"once end {here.address}"
    assert total["flooded"] >= 4  # two packets, at the sender's host and at the other one
    assert not {"tunnel_failed", "unknown_destination", "overlay_no_endpoint"} & set(total)
    # The next packet that the other network gets must be one of its own.
    run(machines[0].container("10.32.0.7/16", vni=2), _GROUP_SENDER, group, "10.32.0.7")
    assert deaf.rest() == "once end 10.32.0.7"


def test_ipv6_multicast(machines: list[Machine]) -> None:
    containers = []
    for number, machine in enumerate((machines[0], machines[0], machines[1]), 2):
        containers.append(machine.container())
        machine.connect(containers[-1], f"10.32.0.{number}/16", address6=f"fd00:32::{number}/64")
    programs = [started(c, """
        s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        s.bind(("", 5000))
        group = socket.inet_pton(socket.AF_INET6, "ff05::1234")
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                     group + struct.pack("@I", socket.if_nametoindex("eth0")))
        ready()
        s.settimeout(5)
        got = [s.recvfrom(100) for _ in range(2)]
        print(*(data.decode() for data, _ in got), got[0][1][0])
    """) for c in containers[1:]]
    run(containers[0], """
        s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        s.bind(("fd00:32::2", 0))
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
        for word in (b"once", b"end"):
            s.sendto(word, ("ff05::1234", 5000))
    """)
    for program in programs:
        assert program.rest() == "once end fd00:32::2"


def test_a_broadcast_to_more_than_one_packet_can_reach(machines: list[Machine]) -> None:
    here, there = (machines[0].container(f"10.32.0.{n}/16") for n in (2, 3))
    veth = there.endpoints[0][1]
    machines[0].datapath.set_flood(there.endpoints[0][0].vni, [], [veth.host_ifindex] * 513)
    with counted(here) as total:
        run(here, _GROUP_SENDER, "10.32.255.255", here.address)
    assert total == {"flooded": 2, "flood_overflow": 2}
    machines[0].datapath.set_flood(there.endpoints[0][0].vni, [], [999_999])
    with counted(here) as total:
        run(here, _GROUP_SENDER, "10.32.255.255", here.address)
    assert total == {"flooded": 2, "tunnel_failed": 2}


def test_nobody_has_that_address(pair6: Pair) -> None:
    here, there = pair6
    with counted(here, there) as total:
        for address in ("10.32.0.99", "fd00:32::99"):
            here.run("ping", "-c1", "-W1", address, check=False)
    assert total == {"unknown_destination": 2}


def test_arp_is_not_needed_and_not_sent(pair: Pair) -> None:
    here, there = pair
    program = start(there, 'serve(listen("0.0.0.0", 80))')
    assert program.line() == "ready"
    with counted(here, there) as total:
        here.run("ping", "-c1", "-W2", there.address)
        run(here, "assert asked(connected(sys.argv[1], 80)) == b'hello'", there.address)
    assert "not_ip" not in total
    assert "NOARP" in here.netns.ip("link show eth0")
