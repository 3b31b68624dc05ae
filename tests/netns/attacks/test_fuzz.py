"""Sends thousands of malformed packets: each must be dropped.

They are random, with a fixed seed, so that a run can be repeated.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from driver.datapath.code.reasons import read_reasons
from tests.netns.attacks.attack import (
    EXPERIMENT,
    EXPERIMENT6,
    OPTION_KIND,
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
from tests.netns.talk import client, counted, host_path
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster, Machine

COUNT = 4000
DROPS = {reason.name for reason in read_reasons() if reason.kind == "drop"}


@pytest.fixture
def live(machines: list[Machine]) -> Victim:
    return victim(machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16"))


def _mutated(random: Random, packet: bytes, first: int = 0) -> bytes:
    """Change up to four bytes from `first` on, and sometimes cut off the end."""
    data = bytearray(packet)
    for _ in range(random.randint(1, 4)):
        data[random.randrange(first, len(data))] = random.choice((0, 0xff, random.randrange(256)))
    # The kernel itself drops a tagged frame with almost nothing after the tag.
    shortest = 20 if data[12:14] == b"\x81\0" else 14
    return bytes(data[:random.randrange(shortest, len(data))] if random.random() < 0.2 else data)


def _assert_untouched(live: Victim) -> None:
    assert live.lives()
    with host_path(live.here, live.there):
        client(live.here, live.there.address)


def test_frames_of_a_container(machines: list[Machine], live: Victim) -> None:
    """The container may send none of them; each is counted once, by its reason for the drop."""
    random, thief = Random("container"), machines[0].container("10.32.0.4/16")
    own, to, peer = str(machines[0].underlay), endpoint(live.there), live.there.address
    base: list[Packet] = [
        segment(own, live.port, str(to.underlay), to.port, "PA", b"evil" * 4),
        segment(own, 40000, str(to.underlay), to.port,
                options=syn_option(80, endpoint(live.here).port)),
        IP(src=own, dst=str(to.underlay), options=[IPOption(b"\x01\x01\x01\x00")]) / TCP(),
        IP(src=own, dst=str(to.underlay)) / ICMP(type=3, code=4) / Raw(bytes(40)),
        vxlan(1, IP(src=live.here.address, dst=peer) / UDP(), source=own,
              destination=str(to.underlay)),
        IP(src="172.20.9.9", dst=peer) / UDP() / Raw(b"evil"),
        IPv6(src="fd00:99::9", dst="fd00:32::3") / UDP() / Raw(b"evil"),
        ARP(op="is-at", psrc="172.20.9.9", pdst=peer)]
    whole = [bytes(frame(packet)) for packet in base]
    whole.append(bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=5) / base[0]))
    taps = [Tap(live.here), Tap(live.there)]
    with counted(thief, live.there) as total:
        send(thief, [_mutated(random, random.choice(whole)) for _ in range(COUNT)])
    assert set(total) <= DROPS, total
    assert sum(total.values()) == COUNT, total
    assert set(total) >= {"foreign_flow", "spoofed_source", "malformed", "not_ip", "vlan_tag"}
    assert not any(tap.frames() for tap in taps)
    _assert_untouched(live)


def _tail(random: Random, caller_port: int) -> bytes:
    """Make what follows a TCP header's 20 bytes: wrong options of all kinds, and right ones."""
    right = bytes((OPTION_KIND, 8)) + b"".join(
        n.to_bytes(2, "big") for n in (
            random.choice((EXPERIMENT, EXPERIMENT, EXPERIMENT6)), 80, caller_port))
    match random.randrange(5):
        case 0:
            return b"\x02\x04\x05\xb4" * random.randrange(6) + right
        case 1:
            return right + b"\x01" * random.randrange(33)
        case 2:
            return right * random.randrange(1, 6)
        case 3:
            return b"\x01" * random.randrange(4) + _mutated(random, right + right, 0)
        case _:
            return random.randbytes(random.randrange(45))


def _verdict(tail: bytes, doff: int, callers: dict[int, bool]) -> str:
    """Return the verdict that docs/wire.md gives a SYN with this tail and data offset.

    callers: endpoint ports of the sender's host; whether each is of the callee's network.  None of
    them has an IPv6 address.
    """
    end = 4 * doff - 20
    options = tail[:end] if 8 <= end <= len(tail) else b""
    at = max(options.rfind(bytes((OPTION_KIND, 8)) + each.to_bytes(2, "big"), 0, max(0, end - 4))
             for each in (EXPERIMENT, EXPERIMENT6))
    option = options[at:at + 8] if max(0, end - 32) <= at <= end - 8 else b""
    if at < 0 or len(option) < 8:
        return "syn_no_option"
    of_network = callers.get(int.from_bytes(option[6:], "big"))
    if option[4:6] == b"\0\0":  # a probe
        return "probe_unknown" if of_network is None else "answered"
    if of_network is None or (of_network and option[2:4] == EXPERIMENT6.to_bytes(2, "big")):
        return "syn_unknown_caller"
    return "let in" if of_network else "syn_other_network"


def test_options_of_syns(machines: list[Machine], cluster: Cluster, live: Victim) -> None:
    """Sent in a registered host's name, each gets the verdict that docs/wire.md says."""
    stranger = machines[0].container("10.32.0.2/16", vni=2)
    callers = {endpoint(live.here).port: True, endpoint(stranger).port: False}
    random, to, host = Random("options"), endpoint(live.there), str(machines[0].underlay)
    target, pending = mac(machines[1].netns), machines[1].loaded.table("pending")
    expected, packets = Counter[str](), []
    for number in range(COUNT):
        tail = _tail(random, random.choice([*callers, 65000]))
        doff = random.choice((min(15, 5 + len(tail) // 4), random.randrange(16)))
        flags = "S" + "".join(flag for flag in "FPUEC" if random.random() < 0.2)
        expected[_verdict(tail, doff, callers)] += 1
        packets.append(frame(
            segment(host, 1024 + number, str(to.underlay), to.port, flags, tail, dataofs=doff),
            destination=target))
    before = len(pending)
    uncounted = expected["let in"] + expected["answered"]
    refused = [name for name in expected if name not in ("let in", "answered")]
    start = machines[1].counters()

    def seen() -> dict[str, int]:
        now = machines[1].counters()
        return {name: now[name] - start[name] for name in refused}

    send(cluster.wire, packets, interface="br0")
    wait_until(lambda: sum(seen().values()) >= COUNT - uncounted, 30, "all of them")
    assert seen() == {name: expected[name] for name in refused}
    assert len(pending) - before == expected["let in"]
    assert min(expected[name] for name in (
        "let in", "syn_no_option", "syn_unknown_caller", "syn_other_network")) > 100, expected
    _assert_untouched(live)


def test_overlay_packets(machines: list[Machine], cluster: Cluster, live: Victim) -> None:
    """They come from a registered host, with an unknown inner source; the VXLAN part is mutated."""
    random, target = Random("overlay"), mac(machines[1].netns)
    host, own = str(machines[0].underlay), str(machines[1].underlay)
    inner: list[Packet] = [
        IP(src="172.20.9.9", dst=live.there.address) / UDP(dport=5000) / Raw(b"evil"),
        IP(src="172.20.9.9", dst="255.255.255.255") / UDP(dport=5000) / Raw(b"evil"),
        segment("172.20.9.9", live.port, live.there.address, 80, "R"),
        IPv6(src="fd00:99::9", dst="ff02::1") / UDP() / Raw(b"evil")]
    whole = [bytes(frame(vxlan(1, one, source=host, destination=own), destination=target))
             for one in inner]
    udp_end = 14 + 20 + 8
    packets: list[bytes] = []
    for _ in range(COUNT):
        one = bytearray(_mutated(random, random.choice(whole), udp_end))
        if len(one) < udp_end + 8:
            continue
        # The inner lengths must fit what is left.
        one[16:18], one[38:40] = (len(one) - 14).to_bytes(2, "big"), (len(one) - 34).to_bytes(
            2, "big")
        header = IP(bytes(one[14:34]))
        del header.chksum
        packets.append(bytes(one[:14]) + bytes(header) + bytes(one[34:]))
    tap = Tap(live.there)
    with counted(live.there) as total:
        send(cluster.wire, packets, interface="br0")
        good = IP(src=live.here.address, dst=live.there.address) / ICMP(type=0) / Raw(b"last")
        before = machines[1].counters()["overlay_received"]
        send(cluster.wire, frame(vxlan(1, good, source=host, destination=own),
                                 destination=target), interface="br0")
        wait_until(lambda: machines[1].counters()["overlay_received"] > before, 30, "the last")
    assert total.pop("overlay_received") == 1
    assert set(total) <= DROPS, total
    assert total["overlay_wrong_host"] > COUNT // 2, total
    assert [bytes(seen[Raw]) for seen in tap.frames() if seen.haslayer(Raw)] == [b"last"]
    _assert_untouched(live)
