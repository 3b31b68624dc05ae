"""Tests packets that a container forges, to its own name server and to another container's.

CAP_NET_RAW lets it: sources that it has not, fragments, options, wrong checksums, others' ports.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from driver.link.netlink.names import NAME_SERVER, NAMES_MARK, NAMES_PORT
from tests.netns.attacks.attack import endpoint, mac, send
from tests.netns.names.neighbours import WAIT_S, Neighbours
from tests.support.faults.dns_messages import query, question
from tests.support.world.machines import Container

SO_MARK = 36
DOCKERS_UDP = 40002
PROBE = query(question(b"\5probe\0"))  # whom it reaches is noted: it is a name of nobody's
LARGE = PROBE + bytes(4000)


def asked(source: str, sport: int = 4000, dport: int = NAMES_PORT, data: bytes = PROBE,
          **fields: Any) -> Packet:
    """Make a query in somebody's name; `fields` are those of UDP."""
    return IP(src=source, dst=NAME_SERVER) / UDP(sport=sport, dport=dport, **fields) / Raw(data)


def put_out(container: Container, packets: list[Packet], mark: int = 0) -> None:
    """Send IP packets as they are, by the container's routes."""
    with container.netns.call(lambda: socket.socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        for packet in packets:
            with suppress(OSError):  # the kernel may refuse to
                raw.sendto(bytes(packet), (NAME_SERVER, 0))


def packets(neighbours: Neighbours) -> dict[str, list[Packet]]:
    own, others = neighbours.hostile.address, neighbours.other.address
    with_options = asked(own)
    with_options[IP].options = [IPOption(b"\x07\x07\x04\0\0\0\0")]  # a record of the route
    pieces = [piece for data in (PROBE + bytes(60), LARGE)
              for dport in (NAMES_PORT, 53) for piece in fragment(  # type: ignore[no-untyped-call]
                  asked(own, dport=dport, data=data), fragsize=24 if len(data) < 500 else 1000)]
    sources = ("8.8.8.8", "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", NAME_SERVER,
               others, own, "10.32.255.255")
    return {
        "sources that it has not": [
            asked(source, sport, dport) for source in sources
            for sport in (4000, 0, 53, NAMES_PORT, DOCKERS_UDP)
            for dport in (NAMES_PORT, 53, DOCKERS_UDP, 1)],
        "fragments": pieces, "fragments of which some are missing": pieces[::2],
        "fragments the other way round": pieces[::-1], "options": [with_options],
        "no checksum": [asked(own, chksum=0)], "a wrong checksum": [asked(own, chksum=0xBAD)],
        "a wrong length": [asked(own, len=length) for length in (0, 7, 8, 9, 65535)],
        "TCP without a connection": [
            IP(src=source, dst=NAME_SERVER) / TCP(sport=4000 + number, dport=dport, flags=flags)
            / Raw(PROBE)
            for source in sources for dport in (NAMES_PORT, 53)
            for number, flags in enumerate(("S", "SA", "A", "R", "F", "FSRPAU", ""))],
        "cut headers": [
            IP(src=own, dst=NAME_SERVER, proto=protocol) / Raw(bytes(length))
            for protocol in (6, 17) for length in (0, 1, 3, 4, 7, 19)]}


def test_to_its_own_name_server(neighbours: Neighbours) -> None:
    for forged in packets(neighbours).values():
        for mark in (0, NAMES_MARK):
            put_out(neighbours.hostile, forged, mark)
        neighbours.hostile_is_answered()
    assert "probe" in neighbours.asked_in(neighbours.hostile)
    neighbours.is_well()


def test_beneath_its_own_kernel(neighbours: Neighbours) -> None:
    """As frames on lo: no NAT, no reassembly, and no check has seen them."""
    every = [packet for forged in packets(neighbours).values() for packet in forged]
    frames = [bytes(Ether(src="00:00:00:00:00:00", dst="00:00:00:00:00:00") / packet)
              for packet in every]
    send(neighbours.hostile, [*frames, *(each[:34] for each in frames), *(
        each[:20] for each in frames)], interface="lo")
    neighbours.is_well()


def test_to_another_containers_name_server(neighbours: Neighbours) -> None:
    """By the network: it must take no query, and no answer, of another container's."""
    there = mac(neighbours.other.netns)
    for forged in packets(neighbours).values():
        send(neighbours.hostile, [Ether(dst=there) / packet for packet in forged])
    answers = [IP(src=source, dst=target) / UDP(sport=53, dport=dport) / Raw(
        number.to_bytes(2, "big") + b"\x81\x80" + PROBE[4:])
        for source in (NAME_SERVER, neighbours.hostile.address)
        for target in (neighbours.other.address, "127.0.0.1")
        for dport in (NAMES_PORT, 32768, 40000, 60999) for number in range(10)]
    send(neighbours.hostile, [Ether(dst=there) / packet for packet in answers])
    assert endpoint(neighbours.hostile).vni == endpoint(neighbours.other).vni
    neighbours.is_well()


def test_answers_go_nowhere_else(neighbours: Neighbours) -> None:
    """A query in another container's name has it answered by nobody, also if routes let it."""
    inside = neighbours.hostile.netns
    for setting in ("route_localnet", "accept_local"):
        inside.sysctl(f"ipv4.conf.eth0.{setting}", 1)
    with neighbours.other.netns.call(lambda: socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM)) as victim:
        victim.bind((neighbours.other.address, 4000))
        victim.setblocking(False)
        put_out(neighbours.hostile, [asked(neighbours.other.address, data=query())] * 20)
        neighbours.hostile_is_answered()
        neighbours.more_is_asked()
        with pytest.raises(BlockingIOError):
            victim.recv(4096)
    neighbours.is_well()


def test_a_mark_of_its_own(neighbours: Neighbours) -> None:
    """It takes CAP_NET_ADMIN, and is its own loss."""
    with neighbours.datagrams(neighbours.hostile) as marked:
        marked.setsockopt(socket.SOL_SOCKET, SO_MARK, NAMES_MARK)
        marked.settimeout(WAIT_S)
        marked.send(query())
        assert marked.recv(4096)[3] & 15 == 3, "Docker's knows no such name"
    neighbours.is_well()
