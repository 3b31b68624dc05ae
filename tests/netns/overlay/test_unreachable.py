"""Tests addresses without an endpoint: senders get an error after 3 s, as on a bridge."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from driver.datapath.loading import bpf
from tests.netns.attacks.attack import send
from tests.netns.talk import client, counted, run, server, start, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

NOBODY, NOBODY6 = "10.32.0.99", "fd00:32::99"
OWN, OWN6 = "10.32.0.2", "fd00:32::2"
S = 10**9


@pytest.fixture
def lonely(machines: list[Machine]) -> Container:
    """A container with addresses of both families, without attempts from earlier tests."""
    made = machines[0].container()
    machines[0].connect(made, f"{OWN}/16", address6=f"{OWN6}/64")
    _attempts(made).clear()
    return made


def _attempts(container: Container):  # type: ignore[no-untyped-def]
    return container.machine.loaded.table("attempts")


def _tried_before(container: Container) -> None:
    """Pretend that the first attempts were 3 s ago, and that no sender was told since."""
    table = _attempts(container)
    for key, leaf in list(bpf.entries(table)):
        leaf.first_ns -= 3 * S
        leaf.told_ns = 0
        table[key] = leaf


def _told(container: Container, packet: Packet) -> int:
    """Send twice, 3 s apart; return how many answers came.  The first must get none."""
    before = container.machine.counters()["told_unreachable"]
    send(container, packet)
    assert container.machine.counters()["told_unreachable"] == before
    _tried_before(container)
    send(container, packet)
    return container.machine.counters()["told_unreachable"] - before


@pytest.mark.parametrize(("address", "said"), [
    (NOBODY, "Destination Host Unreachable"),
    (NOBODY6, "Destination unreachable: Address unreachable")])
def test_ping(lonely: Container, address: str, said: str) -> None:
    with counted(lonely) as total:
        printed = lonely.run("ping", "-c4", "-W1", address, check=False).stdout
    assert said in printed
    assert total["told_unreachable"] >= 1
    assert set(total) <= {"told_unreachable", "unknown_destination"}


@pytest.mark.parametrize("address", [NOBODY, f"::ffff:{NOBODY}", NOBODY6])
def test_a_connect_fails_with_no_route_to_host(lonely: Container, address: str) -> None:
    """The kernel sends its second retransmission 3 s after the first SYN."""
    assert run(lonely, """
        c = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
        print(error_of(lambda: c.connect((sys.argv[1], 80))))
    """, address) == "EHOSTUNREACH"


@pytest.mark.parametrize("size", [5, 8000])
@pytest.mark.parametrize("address", [NOBODY, NOBODY6])
def test_a_connected_datagram_socket_hears_of_it(
        lonely: Container, address: str, size: int) -> None:
    """It gets the error with IP_RECVERR, as on any network; large datagrams are fragments."""
    program = start(lonely, """
        six = ":" in sys.argv[1]
        s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(*((socket.IPPROTO_IPV6, 25, 1) if six else (socket.IPPROTO_IP, 11, 1)))
        s.connect((sys.argv[1], 5000))
        s.settimeout(5)
        for _ in range(2):
            s.send(bytes(int(sys.argv[2])))
            print("sent", flush=True)
            sys.stdin.readline()
        print(error_of(lambda: s.recv(1)))
    """, address, size)
    assert program.line() == "sent"
    _tried_before(lonely)
    program.say("again")
    assert program.line() == "sent"
    program.say("and hear")
    assert program.rest() == "EHOSTUNREACH"


@pytest.mark.parametrize("packet", [
    IP(src=OWN, dst=NOBODY) / UDP(sport=5, dport=6) / Raw(b"evil"),
    IPv6(src=OWN6, dst=NOBODY6) / IPv6ExtHdrFragment(m=1, nh=17) / Raw(bytes(64)),
], ids=lambda packet: packet.summary())
def test_an_answer_is_whole(lonely: Container, packet: Packet) -> None:
    """Its checksums are right, and it quotes the packet that it is about."""
    packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet
    hearing = start(lonely, """
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("eth0", 0))
        ready()
        while True:
            frame, (_, _, kind, *_) = raw.recvfrom(2000)
            if kind != socket.PACKET_OUTGOING:
                print(frame.hex(), flush=True)
    """)
    assert hearing.line() == "ready"
    assert _told(lonely, packet) == 1
    got = Ether(bytes.fromhex(hearing.line()))
    six = IPv6 in packet
    asked, ip = (packet[IPv6], got[IPv6]) if six else (packet[IP], got[IP])
    assert (ip.src, ip.dst) == (asked.dst, asked.src)
    error = ip.payload
    assert (error.type, error.code) == ((1, 3) if six else (3, 1))
    quoted = bytes(asked)[:(48 + 8 * (IPv6ExtHdrFragment in packet)) if six else 28]
    assert bytes(error)[8:] == quoted
    again = ip.copy()
    if not six:
        del again.chksum
    del again.payload.fields["cksum" if six else "chksum"]
    assert bytes(type(ip)(bytes(again))) == bytes(ip)


@pytest.mark.parametrize(("why", "packet"), [
    ("ICMP error", IP(src=OWN, dst=NOBODY) / ICMP(type=3) / Raw(bytes(28))),
    ("ICMPv6 error", IPv6(src=OWN6, dst=NOBODY6) / ICMPv6DestUnreach() / Raw(bytes(48))),
])
def test_what_is_never_answered(lonely: Container, why: str, packet: Packet) -> None:
    """Else errors could cause errors: RFC 1122, 3.2.2, and RFC 4443, 2.4 (e).

    All other such packets: tests/kernel/packets/test_icmp_packets.py.
    """
    del why
    unicast = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    assert _told(lonely, unicast / packet) == 0


def test_at_most_four_a_second_to_each_sender(lonely: Container, machines: list[Machine]) -> None:
    """A sender that floods takes nothing from its neighbour, who gets its answers in time."""
    neighbour = machines[0].container("10.32.0.3/16")
    unicast = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")

    def packets(source: str) -> Packet:
        return unicast / IP(src=source, dst=NOBODY) / UDP()

    send(lonely, packets(OWN))
    _tried_before(lonely)
    with machines[0].counting() as grown:
        send(neighbour, packets("10.32.0.3"))
        send(lonely, [bytes(packets(OWN))] * 1000)
    took_longer = grown["told_unreachable"] - 1  # a busy machine needs more than 250 ms for it
    assert grown["unknown_destination"] == 1001 - grown["told_unreachable"]
    assert 0 <= took_longer < 20
    (told_ns,) = {int(leaf.told_ns) for key, leaf in bpf.entries(_attempts(lonely))
                  if key.ifindex == lonely.endpoints[0][1].host_ifindex}
    assert told_ns > 0
    _tried_before(neighbour)
    with machines[0].counting() as grown:
        send(neighbour, packets("10.32.0.3"))
    assert grown == {"told_unreachable": 1}


def test_who_comes_before_3_seconds_are_over_is_reached(lonely: Container,
                                                        machines: list[Machine]) -> None:
    """The first SYN that is sent again reaches it."""
    calling = start(lonely, """
        c = socket.socket()
        print(error_of(lambda: c.connect((sys.argv[1], 80))), flush=True)
        print(asked(c).decode())
    """, NOBODY)
    wait_until(lambda: len(_attempts(lonely)) == 1, 30, "the first SYN")
    late = machines[0].container()
    server(late)
    machines[0].connect(late, f"{NOBODY}/16")
    assert calling.line() == "none"
    assert calling.rest() == "hello"


def test_after_a_while_it_counts_from_the_beginning(lonely: Container) -> None:
    packet = (Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
              / IP(src=OWN, dst=NOBODY) / TCP(flags="S"))
    send(lonely, packet)
    table = _attempts(lonely)
    for key, leaf in list(bpf.entries(table)):
        leaf.first_ns -= 20 * S
        leaf.last_ns -= 20 * S
        table[key] = leaf
    with lonely.machine.counting() as grown:
        send(lonely, packet)
    assert grown == {"unknown_destination": 1}


def test_data_for_an_endpoint_that_has_gone(lonely: Container, machines: list[Machine]) -> None:
    """This holds for offloaded segments, too; TCP gives up after its usual time, and says why."""
    there = machines[0].container(f"{NOBODY}/16")
    started(there, """
        server = listen("0.0.0.0", 80)
        ready()
        c, _ = server.accept()
        c.recv(1)
        sys.stdin.readline()
    """)
    sending = start(lonely, """
        c = connected(sys.argv[1], 80)
        c.sendall(b"x")
        print("ready", flush=True)
        sys.stdin.readline()
        c.settimeout(None)
        c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        def go_on():
            while True:
                c.sendall(bytes(1 << 20))
        print(error_of(go_on))
    """, NOBODY)
    assert sending.line() == "ready"
    machines[0].disconnect(there, there.endpoints[0][0])
    send(lonely, Ether(dst="02:00:00:00:00:02") / IP(src=OWN, dst=NOBODY) / UDP())
    _tried_before(lonely)
    before = lonely.machine.counters()["told_unreachable"]
    sending.say("go on")
    assert sending.rest() == "EHOSTUNREACH"
    assert lonely.machine.counters()["told_unreachable"] > before


def test_an_answer_has_no_checksum_left_to_fill_in(lonely: Container) -> None:
    """A device that fills in checksums would spoil an answer made from a packet that lacked one.

    The kernel marks such packets for readers (TP_STATUS_CSUMNOTREADY in PACKET_AUXDATA).
    """
    hearing = started(lonely, """
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        raw.bind(("eth0", 0))
        ready()
        while True:
            frame, control, _, (_, _, kind, *_) = raw.recvmsg(2000, 100)
            status = struct.unpack("I", control[0][2][:4])[0]
            out = kind == socket.PACKET_OUTGOING
            if frame[12:14] == b"\\x08\\x00" and frame[23] == (6 if out else 1):
                print("SYN" if out else "answer", bool(status & 8), flush=True)
    """)
    calling = start(lonely, """
        c = socket.socket()
        print(error_of(lambda: c.connect((sys.argv[1], 80))), flush=True)
    """, NOBODY)
    assert hearing.line() == "SYN True"
    _tried_before(lonely)
    while (line := hearing.line()).startswith("SYN"):
        _tried_before(lonely)
    assert line == "answer False"
    assert calling.rest() == "EHOSTUNREACH"


def test_a_destination_that_comes_back_is_reached(lonely: Container,
                                                  machines: list[Machine]) -> None:
    assert _told(lonely, Ether(dst="02:00:00:00:00:02") / IP(src=OWN, dst=NOBODY) / UDP()) == 1
    late = machines[1].container(f"{NOBODY}/16")
    server(late)
    assert client(lonely, NOBODY).split()[2] == NOBODY
