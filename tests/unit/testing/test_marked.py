"""Tests how marked packets are packed and read back."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from driver.link.underlay import marked
from driver.link.underlay.syn_probe import syn
from driver.services.ports import ProbeFlow

TOKEN = b"\x01\x02\x03\x04\x05\x06\x07\x08"
A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def packet(inner: bytes, source: IPv4Address = A) -> bytes:
    """IP and UDP around what a host sends."""
    payload = marked.payload(inner)
    return struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + (
        source.packed + B.packed + struct.pack("!HHHH", 40000, 14789, 8 + len(payload), 0)
        + payload)


@pytest.mark.parametrize("size", [64, 1024, 1450, 8950])
@pytest.mark.parametrize("whole", [False, True])
def test_a_packet(size: int, whole: bool) -> None:
    inner = marked.body(TOKEN, A, size, whole=whole)
    assert len(inner) == size
    assert marked.read_body(inner) == marked.Marked(A, size, whole, True)
    sent = packet(inner)
    assert len(sent) == size + marked.OVERLAY_HEADERS
    assert marked.read_packet(sent) == (A, marked.Marked(A, size, whole, True))
    cut = marked.Marked(A, size, whole, size + marked.OVERLAY_HEADERS <= 256)
    assert marked.read_packet(sent[:256]) == (A, cut)
    assert marked.read_packet(packet(inner, B))[0] == B


def test_each_changed_byte_is_noticed() -> None:
    inner = marked.body(TOKEN, A, 64, whole=False)
    for at in range(16, 64):
        found = marked.read_body(inner[:at] + bytes([inner[at] ^ 1]) + inner[at + 1:])
        assert found == marked.Marked(A, 64, False, False)
    assert marked.read_body(inner + b"x") == marked.Marked(A, 64, False, False)


def test_other_rounds_and_hosts_have_other_bytes() -> None:
    ends = {marked.body(token, host, 64, whole=False)[16:]
            for token in (TOKEN, bytes(8)) for host in (A, B)}
    assert len(ends) == 4


def test_what_is_too_short_is_nothing() -> None:
    inner = marked.body(TOKEN, A, 64, whole=False)
    for length in range(16):
        assert marked.read_body(inner[:length]) is None
    assert marked.read_packet(packet(inner)[:50])[1] is None


def test_a_syn() -> None:
    sent = syn(A, ProbeFlow(B, 61000, 40000), marked.sequence(TOKEN), 0)
    assert sent[24:28] == TOKEN[:4]
    assert marked.read_packet(sent) == (A, marked.MarkedSyn(A, 61000, True))
    stripped = sent.replace(b"\xfe\x08\x5e\x1d", b"\x01\x01\x01\x01")
    assert marked.read_packet(stripped) == (A, marked.MarkedSyn(A, 61000, False))
    assert marked.read_packet(sent[:30])[1] is None
