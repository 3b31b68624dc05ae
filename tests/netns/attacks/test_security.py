"""Tests what containers and the wire must not get through; a counter has the reason of each drop.

Containers are root in their namespace here, with raw and packet sockets.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from driver.model import Endpoint
from tests.netns import inside
from tests.netns.talk import (
    Program,
    client,
    counted,
    host_path,
    overlay,
    refuser,
    run,
    server,
    start,
    started,
)
from tests.support.run.wait import wait_until
from tests.support.world.machines import VXLAN_PORT, Cluster, Container, Machine
from tests.support.world.maps import delete_all, enter_all

Pair = tuple[Container, Container]
EXPERIMENT6 = 0x5e16  # the option's, if IPv6 addresses are meant


def _send(container: Container, packet: str, **options: object) -> None:
    """Send a packet (an expression over inside.py) by eth0."""
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    run(container, f"send_frame({packet}{more})")


def _endpoint(container: Container) -> Endpoint:
    return container.endpoints[0][0]


@pytest.fixture
def silent(pair: Pair) -> Callable[[], list[bytes]]:
    """Returns what has arrived at the second container's interface since the fixture."""
    there = pair[1]

    def tap() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("eth0", 0))
        raw.setblocking(False)
        return raw

    raw = there.netns.call(tap)
    there.machine.stack.callback(raw.close)

    def seen() -> list[bytes]:
        frames = []
        while True:
            try:
                frame, (_, _, kind, *_) = raw.recvfrom(2000)
            except BlockingIOError:
                return frames
            if kind != socket.PACKET_OUTGOING and frame[12:14] != b"\x86\xdd":
                frames.append(frame)

    return seen


def test_a_foreign_virtual_source(pair: Pair, silent: Callable[[], list[bytes]]) -> None:
    here, there = pair
    with counted(here, there) as total:
        for source in ("10.32.0.9", "8.8.8.8", "0.0.0.0", "127.0.0.1", there.address):
            _send(here, f"udp({source!r}, 5, {there.address!r}, 5000, b'x')")
        _send(here, "bytes.fromhex('6000000000083a40') + socket.inet_pton(10, 'fd00::9') + "
                    "socket.inet_pton(10, 'fd00::3') + bytes(8)", kind=0x86dd)
    assert total == {"spoofed_source": 6}
    assert not silent()


@pytest.mark.parametrize("port", [5555, None])
def test_the_hosts_source_without_a_connection(
        pair: Pair, silent: Callable[[], list[bytes]], port: int | None) -> None:
    """From any port, even the container's own endpoint port, to containers and hosts."""
    here, there = pair
    own, peer = here.machine.underlay, _endpoint(there)
    sport = port or _endpoint(here).port
    with counted(here, there) as total:
        for target, dport in ((peer.underlay, peer.port), (peer.underlay, 22),
                              ("198.18.77.254", 80)):
            # SYN, ACK, SYN-ACK, RST (a RST from a port of its own may leave)
            for flags in (2, 16, 18, *([4] if port else ())):
                _send(here, f"tcp('{own}', {sport}, '{target}', {dport}, flags={flags}, "
                            f"options=option(80, {_endpoint(here).port}))")
    assert total == {"foreign_flow": 9 if port else 6, "late_ack": 3}
    assert not silent()


def test_the_hosts_source_for_anything_but_whole_tcp(
        pair: Pair, silent: Callable[[], list[bytes]]) -> None:
    here, there = pair
    own, peer = here.machine.underlay, _endpoint(there)
    with counted(here, there) as total:
        _send(here, f"udp('{own}', 5, '{peer.underlay}', {VXLAN_PORT}, b'x')")
        _send(here, f"ip4('{own}', '{peer.underlay}', 1, b'\\x08' + bytes(7))")
        _send(here, f"ip4('{own}', '{peer.underlay}', 6, bytes(40), flags=0x2000)")
    assert total == {"spoofed_source": 3}
    assert not silent()


_HOLD = """
    c = (connected_after_a_refusal(sys.argv[2], sys.argv[1], 80) if len(sys.argv) > 2
         else connected(sys.argv[1], 80))
    assert asked(c) == b"hello"
    print(c.getsockname()[1], flush=True)
    sys.stdin.readline()
    assert asked(c) == b"hello"
"""


def _held(here: Container, there: Container) -> tuple[Program, int]:
    """Open a connection on the host path, even on one host."""
    server(there)
    one_host = [refuser(here)] if here.machine is there.machine else []
    program = start(here, _HOLD, there.address, *one_host)
    return program, int(program.line())


def test_another_containers_connection(pair: Pair) -> None:
    here, there = pair
    thief = here.machine.container("10.32.0.4/16")
    program, sport = _held(here, there)
    own, peer = here.machine.underlay, _endpoint(there)
    with counted(thief, there) as total:
        for flags in (2, 4, 16):
            _send(thief, f"tcp('{own}', {sport}, '{peer.underlay}', {peer.port}, flags={flags}, "
                         f"options=option(80, {_endpoint(thief).port}))")
    assert total == {"foreign_flow": 3}
    program.say("go on")
    program.rest()


def test_a_syn_that_names_another_caller(pair: Pair) -> None:
    """The flow is its own, so that only the option is wrong."""
    here, there = pair
    other = here.machine.container("10.32.0.4/16")
    program, sport = _held(here, there)
    own, peer = here.machine.underlay, _endpoint(there)
    with counted(here, there) as total:
        for options in (f"option(80, {_endpoint(other).port})", "b''",
                        f"option(80, {_endpoint(here).port}, kind=253)",
                        f"option(80, {_endpoint(here).port}, experiment=1)",
                        f"option(80, {_endpoint(other).port}, experiment={EXPERIMENT6})"):
            _send(here, f"tcp('{own}', {sport}, '{peer.underlay}', {peer.port}, "
                        f"options={options})")
    assert total == {"forged_option": 5}
    program.say("go on")
    program.rest()


def test_syns_from_the_host_and_from_outside(machines: list[Machine], cluster: Cluster) -> None:
    there = machines[1].container("10.32.0.3/16")
    caller = machines[0].container("10.32.0.2/16")
    stranger = machines[0].container("10.32.0.2/16", vni=2)
    server(there)
    to = _endpoint(there)

    def syn(source: str, options: bytes) -> bytes:
        return inside.tcp(source, 40000, str(to.underlay), to.port, options=options)

    outside, host = "198.18.77.254", str(machines[0].underlay)
    port, other = _endpoint(caller).port, _endpoint(stranger).port
    before = machines[1].counters()["syn_other_network"]
    with counted(there) as total:
        cluster.wire.call(lambda: inside.send_ip(syn(outside, b"")))
        cluster.wire.call(lambda: inside.send_ip(syn(outside, inside.option(80, port))))
        machines[0].netns.call(lambda: inside.send_ip(syn(host, b"")))
        machines[0].netns.call(lambda: inside.send_ip(syn(host, inside.option(80, 61999))))
        machines[0].netns.call(lambda: inside.send_ip(syn(host, inside.option(80, other))))
        wait_until(lambda: machines[1].counters()["syn_other_network"] > before, 30, "the last SYN")
    assert total == {"syn_no_option": 2, "syn_unknown_caller": 2, "syn_other_network": 1}


def test_syns_that_mean_ipv6_from_the_host_and_from_outside(
        machines: list[Machine], cluster: Cluster) -> None:
    there = machines[1].container("10.32.0.3/16", address6="fd00:32::3/64")
    caller = machines[0].container("10.32.0.2/16", address6="fd00:32::2/64")
    without = machines[0].container("10.32.0.4/16")
    stranger = machines[0].container("10.32.0.2/16", vni=2, address6="fd00:32::2/64")
    server(there, address="::")
    to = _endpoint(there)

    def syn(source: str, port: int) -> bytes:
        return inside.tcp(source, 40000, str(to.underlay), to.port,
                          options=inside.option(80, port, experiment=EXPERIMENT6))

    outside, host = "198.18.77.254", str(machines[0].underlay)
    before = machines[1].counters()["syn_other_network"]
    with counted(there) as total:
        cluster.wire.call(lambda: inside.send_ip(syn(outside, _endpoint(caller).port)))
        for port in (61999, _endpoint(without).port, _endpoint(stranger).port):
            machines[0].netns.call(lambda p=port: inside.send_ip(syn(host, p)))
        wait_until(lambda: machines[1].counters()["syn_other_network"] > before, 30, "the last SYN")
    assert total == {"syn_unknown_caller": 3, "syn_other_network": 1}


@pytest.mark.parametrize("who", ["caller", "callee"])
def test_the_other_family_in_the_option_of_ones_own_connection(
        machines: list[Machine], who: str) -> None:
    """Forged with CAP_NET_RAW: who has no IPv6 address, or calls one who has none, gains nothing.

    The connection itself, whose SYN it could be, goes on.
    """
    here = machines[0].container(
        "10.32.0.2/16", address6=None if who == "caller" else "fd00:32::2/64")
    there = machines[1].container(
        "10.32.0.3/16", address6=None if who == "callee" else "fd00:32::3/64")
    program, sport = _held(here, there)
    to = _endpoint(there)
    reason = "syn_unknown_caller" if who == "caller" else "syn_withheld"
    before = machines[1].counters()[reason]
    with counted(here, there) as total:
        _send(here, f"tcp('{here.machine.underlay}', {sport}, '{to.underlay}', {to.port}, options="
                    f"option(80, {_endpoint(here).port}, experiment={EXPERIMENT6}))",
              destination=b"\x02\0\0\0\0\1")  # a group's would not be routed
        wait_until(lambda: machines[1].counters()[reason] > before, 30, "the SYN")
    assert total == {reason: 1}
    program.say("go on")
    program.rest()


def test_frames_for_another_machine(machines: list[Machine], cluster: Cluster) -> None:
    """A switch floods them; they have the host's IP address but not its MAC."""
    there = machines[1].container("10.32.0.3/16")
    to = _endpoint(there)
    syn = inside.tcp("198.18.77.254", 40000, str(to.underlay), to.port)
    link = machines[1].netns.ip("-o link show eth0")
    mac = bytes.fromhex(link.split("link/ether ")[1].split()[0].replace(":", ""))
    before = machines[1].counters()["syn_no_option"]
    with counted(there) as total:
        for destination in (b"\x02\0\0\0\0\x99", mac):
            cluster.wire.call(lambda d=destination: inside.send_frame(
                syn, interface="br0", destination=d))
        wait_until(lambda: machines[1].counters()["syn_no_option"] > before, 30,
                   "the second one")
    assert total == {"syn_no_option": 1}


def test_programs_of_hosts_and_outsiders_cannot_connect(
        machines: list[Machine], cluster: Cluster) -> None:
    there = machines[1].container("10.32.0.3/16")
    server(there)
    to = _endpoint(there)

    def attempt() -> str:
        with socket.socket() as c:
            c.setsockopt(socket.IPPROTO_TCP, inside.TCP_USER_TIMEOUT, 300)
            return inside.error_of(lambda: c.connect((str(to.underlay), to.port)))

    with counted(there) as total:
        assert cluster.wire.call(attempt) == "ETIMEDOUT"
        assert machines[0].netns.call(attempt) == "ETIMEDOUT"
        assert machines[1].netns.call(attempt) == "ECONNREFUSED"  # never reaches a container
    assert set(total) == {"syn_no_option"}


def test_arp_and_other_protocols(pair: Pair, silent: Callable[[], list[bytes]]) -> None:
    here, there = pair
    with counted(here, there) as total:
        _send(here, "bytes.fromhex('0001080006040001020000000001') + "
                    f"socket.inet_aton({here.address!r}) + bytes(6) + "
                    f"socket.inet_aton({there.address!r})", kind=0x0806)
        _send(here, "bytes(46)", kind=0x88cc)
    assert total == {"not_ip": 2}
    assert not silent()


def test_packets_that_make_no_sense(pair: Pair, silent: Callable[[], list[bytes]]) -> None:
    here, there = pair
    with counted(here, there) as total:
        _send(here, "b'E' + bytes(9)")
        _send(here, "b'e' + bytes(30)")  # version 6 in an IPv4 frame
        _send(here, "bytes(20)", kind=0x86dd)
    assert total == {"malformed": 3}
    assert not silent()


def test_ipv6_link_local_packets(pair: Pair, silent: Callable[[], list[bytes]]) -> None:
    here, _ = pair
    before = here.machine.counters()["link_local6"]
    _send(here, "bytes.fromhex('6000000000083a40') + socket.inet_pton(10, 'fe80::9') + "
                "socket.inet_pton(10, 'ff02::1') + bytes(8)", kind=0x86dd)
    assert here.machine.counters()["link_local6"] > before
    assert not silent()


def test_an_interface_that_is_no_endpoints(pair: Pair) -> None:
    here, there = pair
    here.machine.datapath.withdraw_interface(here.endpoints[0][1].host_ifindex)
    with counted(here, there) as total:
        _send(here, f"udp({here.address!r}, 5, {there.address!r}, 5000, b'x')")
    assert total == {"unknown_veth": 1}


def test_a_peer_on_the_same_host_loses_its_host_path(machines: list[Machine]) -> None:
    here, there = (machines[0].container(f"10.32.0.{n}/16") for n in (2, 3))
    program, _ = _held(here, there)
    machines[0].datapath.withdraw_sandbox(there.netns.cookie)
    with counted(here) as total:
        program.say("go on")
        assert "Error" in program.all_else()
    assert total["no_endpoint"] >= 1


def _vxlan(vni: int, packet: bytes, kind: int = 0x0800) -> bytes:
    return (struct.pack("!II", 0x08000000, vni << 8) + b"\x02\0\0\0\0\2\x02\0\0\0\0\1"
            + struct.pack("!H", kind) + packet)


def test_vxlan_packets_from_elsewhere(machines: list[Machine], cluster: Cluster) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1].container("10.32.0.3/16")
    seen = started(there, """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 5000))
        ready()
        while True:
            print(*s.recvfrom(100)[1], flush=True)
    """)
    good = inside.udp(here.address, 7, there.address, 5000, b"x")
    to_nobody = inside.udp(here.address, 7, "10.32.0.99", 5000, b"x")
    spoofed = inside.udp("10.32.0.9", 7, there.address, 5000, b"x")

    def send(payload: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(payload, (str(machines[1].underlay), VXLAN_PORT))

    with counted(there) as total:
        cluster.wire.call(lambda: send(_vxlan(1, good)))  # the sender is no host of ours
        machines[0].netns.call(lambda: send(_vxlan(1, spoofed)))  # nobody's address
        machines[0].netns.call(lambda: send(_vxlan(2, good)))  # another network
        machines[0].netns.call(lambda: send(_vxlan(1, to_nobody)))
        machines[0].netns.call(lambda: send(_vxlan(1, bytes(28), kind=0x0806)))
        machines[0].netns.call(lambda: send(_vxlan(1, good)))
        assert seen.line() == f"{here.address} 7"
    # A socket's packets have an outer UDP checksum, slim's have not: the device checks it.
    assert total == {"overlay_wrong_host": 3, "overlay_no_endpoint": 1, "not_ip": 1,
                     "overlay_received": 1, "by_device": 1}


def test_the_flow_table_is_full(across: Pair) -> None:
    """Accepted connections live on what `pending` remembers; new ones take the overlay path."""
    here, there = across
    server(there)
    table = there.machine.loaded.table("flows")
    size = 262144
    keys, leaves = (table.Key * size)(), (table.Leaf * size)()
    for number in range(size):
        keys[number].peer_be = number + 1
    enter_all(table, keys, leaves)
    try:
        with counted(here, there) as total:
            client(here, there.address)
        assert total == {"connected": 1, "flow_table_full": 1}
        server(here)
        with overlay(there, here, because="ports_busy"):
            client(there, here.address)
    finally:
        delete_all(table, keys)
    with host_path(here, there):
        client(here, there.address)
