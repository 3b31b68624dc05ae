"""Tests how marked packets are packed and read back."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from driver.link.underlay import marked
from driver.link.underlay.syn_probe import syn
from driver.model import HostAddress
from driver.services.ports import ProbeFlow

TOKEN = b"\x01\x02\x03\x04\x05\x06\x07\x08"
A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
A6, B6 = IPv6Address("fd00::1"), IPv6Address("fd00::2")


def packet(inner: bytes, source: HostAddress = A) -> bytes:
    """IP and UDP around what a host sends."""
    payload = marked.payload(inner)
    if isinstance(source, IPv6Address):
        return struct.pack("!IHBB", 6 << 28, 8 + len(payload), 17, 64) + (
            source.packed + B6.packed + struct.pack("!HHHH", 40000, 14789, 8 + len(payload), 1)
            + payload)
    return struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + (
        source.packed + B.packed + struct.pack("!HHHH", 40000, 14789, 8 + len(payload), 0)
        + payload)


@pytest.mark.parametrize("size", [64, 1024, 1450, 8950])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("a", "b", "around"), [(A, B, 50), (A6, B6, 70)])
def test_a_packet(size: int, whole: bool, a: HostAddress, b: HostAddress, around: int) -> None:
    inner = marked.body(TOKEN, a, size, whole=whole)
    assert len(inner) == size
    assert marked.read_body(inner) == marked.Marked(a, size, whole, True)
    sent = packet(inner, a)
    assert len(sent) == size + around == size + marked.headers(a.version)
    assert marked.read_packet(sent) == (a, marked.Marked(a, size, whole, True))
    cut = marked.Marked(a, size, whole, size + around <= 256)
    assert marked.read_packet(sent[:256]) == (a, cut)
    assert marked.read_packet(packet(inner, b))[0] == b


@pytest.mark.parametrize(("a", "behind"), [(A, 16), (A6, 28)])
def test_each_changed_byte_is_noticed(a: HostAddress, behind: int) -> None:
    inner = marked.body(TOKEN, a, 64, whole=False)
    for at in range(behind, 64):
        found = marked.read_body(inner[:at] + bytes([inner[at] ^ 1]) + inner[at + 1:])
        assert found == marked.Marked(a, 64, False, False)
    assert marked.read_body(inner + b"x") == marked.Marked(a, 64, False, False)


def test_what_an_earlier_driver_sends_is_the_same() -> None:
    assert marked.body(TOKEN, A, 64, whole=True)[:16] == struct.pack(
        "!8sBxH4s", TOKEN, True, 64, A.packed)


def test_what_says_that_it_is_shorter_than_its_beginning() -> None:
    inner = struct.pack("!8s??H", TOKEN, False, True, 3) + A6.packed
    assert marked.read_body(inner[:3]) is None
    assert marked.read_body(inner) == marked.Marked(A6, 3, False, False)


def test_other_rounds_and_hosts_have_other_bytes() -> None:
    ends = {marked.body(token, host, 64, whole=False)[16:]
            for token in (TOKEN, bytes(8)) for host in (A, B)}
    assert len(ends) == 4


def test_what_is_too_short_is_nothing() -> None:
    inner = marked.body(TOKEN, A, 64, whole=False)
    for length in range(16):
        assert marked.read_body(inner[:length]) is None
    inner = marked.body(TOKEN, A6, 64, whole=False)
    for length in range(28):
        assert marked.read_body(inner[:length]) is None
    assert marked.read_packet(packet(inner)[:50])[1] is None


def test_a_syn() -> None:
    sent = syn(A, ProbeFlow(B, 61000, 40000), marked.sequence(TOKEN), 0)
    assert sent[24:28] == TOKEN[:4]
    assert marked.read_packet(sent) == (A, marked.MarkedSyn(A, 61000, True))
    stripped = sent.replace(b"\xfe\x08\x5e\x1d", b"\x01\x01\x01\x01")
    assert marked.read_packet(stripped) == (A, marked.MarkedSyn(A, 61000, False))
    assert marked.read_packet(sent[:30])[1] is None
