"""Tests the SYN that probes hosts with an IPv6 underlay."""

from __future__ import annotations

from ipaddress import IPv6Address

from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from driver.link.underlay.syn_probe import syn
from driver.services.ports import ProbeFlow

HERE, THERE = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")


def test_it_is_what_a_container_would_send() -> None:
    sent = syn(HERE, ProbeFlow(THERE, 61000, 40000), 0x12345678, 61007)
    found = IPv6(sent)
    assert (found.src, found.dst, found.nh, found.hlim, found.plen) == (
        str(HERE), str(THERE), 6, 64, len(sent) - 40)
    tcp = found[TCP]
    assert (tcp.sport, tcp.dport, tcp.flags, tcp.seq) == (40000, 61000, "S", 0x12345678)
    assert tcp.options[-1] == (254, bytes.fromhex("5e1d 0000 ee4f"))
    found = IPv6(sent)
    before = found[TCP].chksum
    del found[TCP].chksum
    assert IPv6(bytes(found))[TCP].chksum == before
