"""Tests which IPv6 address the driver takes for the underlay, and that it asks hosts by IPv6."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from driver.errors import LinkError
from driver.link.underlay import ipv6
from driver.link.underlay.device import Underlay, UnderlayWatcher, find_underlay
from driver.link.underlay.guard import Guarded, KernelGuard, remove_guard
from driver.link.underlay.probe import UnderlayProber
from driver.services.ports import Presence
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns, join

U, PEER, NOBODY = (IPv6Address(f"fd00:9::{n}") for n in (1, 2, 3))


@pytest.fixture
def pair(make_netns: Callable[[str], Netns]) -> tuple[Netns, Netns]:
    here, there = make_netns("here"), make_netns("there")
    join(here, "eth0", there, "eth0")
    here.ip(f"addr add {U}/64 dev eth0 nodad")
    there.ip(f"addr add {PEER}/64 dev eth0 nodad")
    return here, there


def find(here: Netns, wanted: str) -> Underlay:
    return here.call(lambda: find_underlay(wanted))


def refusal(here: Netns, wanted: str) -> str:
    with pytest.raises(LinkError) as refused:
        find(here, wanted)
    return str(refused.value)


def test_by_address_by_device_and_by_the_default_route(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    assert "has no IPv6 default route" in refusal(here, "/ipv6")
    here.ip(f"route add default via {PEER}")
    found = find(here, str(U))
    assert (found.address, found.name, found.mtu, found.address4) == (U, "eth0", 1500, None)
    assert find(here, "eth0/ipv6") == find(here, "/ipv6") == found


def test_a_device_without_ipv4_says_how(pair: tuple[Netns, Netns]) -> None:
    """It is not taken by itself: the cluster might be one of IPv4, and DHCP late."""
    assert "has no IPv4 address (its IPv6 address: --underlay eth0/ipv6)" in refusal(
        pair[0], "eth0")


def test_a_dual_stack_device_is_ipv4_unless_asked(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    here.ip("addr add 198.18.9.1/24 dev eth0")
    assert find(here, "eth0").address == IPv4Address("198.18.9.1")
    assert find(here, "eth0/ipv6").address == U


def test_addresses_that_do_not_stay_are_none(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    here.ip("addr add fd00:9::5/64 dev eth0 nodad preferred_lft 0")  # deprecated
    assert find(here, "eth0/ipv6").address == U
    assert find(here, "fd00:9::5").address == IPv6Address("fd00:9::5"), "it was asked for"
    here.ip("addr add fd00:9::6/64 dev eth0 nodad")
    assert "several IPv6 addresses (fd00:9::1, fd00:9::6)" in refusal(here, "eth0/ipv6")
    here.ip(f"addr del {U}/64 dev eth0")
    here.ip("addr del fd00:9::6/64 dev eth0")
    assert "has no IPv6 address that stays" in refusal(here, "eth0/ipv6")
    assert f"has the address {U}" in refusal(here, str(U))


def test_temporary_addresses(pair: tuple[Netns, Netns]) -> None:
    """The kernel makes one for each prefix that a router tells, as it was asked to here."""
    here, _ = pair
    here.sysctl("ipv6.conf.eth0.use_tempaddr", 2)
    here.ip(f"addr del {U}/64 dev eth0")
    here.ip("addr add fd00:9::7/64 dev eth0 nodad valid_lft 3600 preferred_lft 1800 mngtmpaddr")

    def temporary() -> str:
        shown = here.ip("-o -6 addr show dev eth0 temporary -tentative")
        return shown.split()[3].partition("/")[0] if shown.strip() else ""

    wait_until(lambda: temporary() != "", 20, "the kernel to make a temporary address")
    assert find(here, "eth0/ipv6").address == IPv6Address("fd00:9::7")
    assert "is a temporary address" in refusal(here, temporary())


def test_it_waits_for_duplicate_address_detection(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    here.ip("addr add fd00:9::8/64 dev eth0")
    assert "tentative" in here.ip("-6 addr show dev eth0 to fd00:9::8")
    began_s = time.monotonic()
    assert find(here, "fd00:9::8").address == IPv6Address("fd00:9::8")
    assert time.monotonic() - began_s > 0.1
    assert "tentative" not in here.ip("-6 addr show dev eth0 to fd00:9::8")


def test_a_duplicate_is_refused(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    here.ip(f"addr add {PEER}/64 dev eth0")
    assert f"another machine has the address {PEER}, too" in refusal(here, str(PEER))


def test_ipv6_that_is_switched_off(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    here.sysctl("ipv6.conf.eth0.disable_ipv6", 1)
    assert "IPv6 is switched off (net.ipv6.conf.eth0.disable_ipv6)" in refusal(here, "eth0/ipv6")
    here.sysctl("ipv6.conf.all.disable_ipv6", 1)
    assert "IPv6 is switched off (net.ipv6.conf.all.disable_ipv6)" in refusal(here, str(U))


def test_a_kernel_without_ipv6(pair: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipv6, "_KERNEL_HAS_IT", Path("/nonexistent"))
    for wanted in ("fd00:9::77", "/ipv6"):
        assert "this kernel has no IPv6 (ipv6.disable=1?)" in refusal(pair[0], wanted)


def test_changes_are_told(pair: tuple[Netns, Netns]) -> None:
    here, _ = pair
    heard: list[Underlay | None] = []
    found = find(here, "eth0/ipv6")
    watcher = UnderlayWatcher("eth0/ipv6", heard.append, found)
    here.call(watcher.start)
    try:
        wait_until(lambda: heard == [found], 10, "the first look")
        here.ip(f"addr del {U}/64 dev eth0")
        wait_until(lambda: heard == [found, None], 10, "it to go")
        here.ip("addr add fd00:9::9/64 dev eth0")
        wait_until(lambda: heard[-1] is not None, 20, "another one, once it is no duplicate")
        assert heard[-1].address == IPv6Address("fd00:9::9")  # type: ignore[union-attr]
    finally:
        watcher.stop()


@pytest.mark.parametrize("answers", ["everything", "echo", "datagrams", "nothing"])
def test_a_sign_of_life(pair: tuple[Netns, Netns], answers: str) -> None:
    here, there = pair
    if answers in ("datagrams", "nothing"):
        there.run("ip6tables", "-A", "INPUT", "-p", "icmpv6", "--icmpv6-type", "echo-request",
                  "-j", "DROP")
    if answers in ("echo", "nothing"):
        there.run("ip6tables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
    prober = UnderlayProber()
    expected = Presence.SILENT if answers == "nothing" else Presence.ANSWERED
    try:  # again and again: the first probe may wait for neighbour discovery
        # Sockets keep the namespace in which they were opened.
        wait_until(lambda: here.call(lambda: prober.probe([PEER], 1.0)) == {PEER: expected}, 30,
                   str(expected))
    finally:
        prober.close()


def test_both_families_at_once_and_nobody_there(pair: tuple[Netns, Netns]) -> None:
    here, there = pair
    four = IPv4Address("198.18.9.2")
    here.ip("addr add 198.18.9.1/24 dev eth0")
    there.ip(f"addr add {four}/24 dev eth0")
    prober, seen = UnderlayProber(), set[tuple[object, Presence]]()

    def absent() -> bool:  # neighbour discovery takes seconds
        seen.update(here.call(lambda: prober.probe([PEER, NOBODY, four], 0.5)).items())
        return {(NOBODY, Presence.ABSENT), (PEER, Presence.ANSWERED),
                (four, Presence.ANSWERED)} <= seen

    wait_until(absent, 30, "the kernel to say that nobody is there")
    assert (NOBODY, Presence.ANSWERED) not in seen
    prober.close()


def test_the_guard(make_netns: Callable[[str], Netns]) -> None:
    """Nothing that a host forwards reaches its peers' VXLAN port, and none comes by another way."""
    inside, host, peer = (make_netns(name) for name in ("inside", "host", "peer"))
    join(inside, "eth0", host, "in0")
    join(host, "out0", peer, "eth0")
    for namespace, address in ((inside, "fd00:1::2/64 dev eth0"), (host, "fd00:1::1/64 dev in0"),
                               (host, f"{U}/64 dev out0"), (peer, f"{PEER}/64 dev eth0")):
        namespace.ip(f"addr add {address} nodad")
    inside.ip("route add default via fd00:1::1")
    peer.ip(f"route add default via {U}")
    host.sysctl("ipv6.conf.all.forwarding", 1)
    guard = KernelGuard(Guarded(U, host.ifindex("out0"), 14789, (61000, 65535), (32768, 60999)))
    host.call(lambda: guard.install([PEER]))
    receiving = {address: namespace.call(lambda a=address: _bound(a))  # type: ignore[misc]
                 for namespace, address in ((peer, str(PEER)), (host, str(U)))}
    sender = inside.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    other = peer.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    try:
        for address in (str(PEER), str(U)):
            sender.sendto(b"forged", (address, 14789))
        wait_until(lambda: host.call(guard.dropped) == 2, 10, "both to be dropped")
        other.sendto(b"true", (str(U), 14789))
        assert receiving[str(U)].recv(100) == b"true"
        sender.sendto(b"other port", (str(PEER), 14790))
        host.call(lambda: guard.change([NOBODY], [PEER]))
        sender.sendto(b"no peer any more", (str(PEER), 14789))
        assert receiving[str(PEER)].recv(100) == b"no peer any more"
        assert host.call(guard.dropped) == 2
        four = KernelGuard(Guarded(IPv4Address("198.18.9.1"), host.ifindex("out0"), 14789,
                                   (61000, 65535), (32768, 60999)))
        host.call(lambda: four.install([]))
        assert host.call(guard.dropped) is None, "the guard of an earlier underlay goes"
        assert host.call(four.dropped) == 0
        host.call(lambda: guard.install([PEER]))
        assert host.call(four.dropped) is None
        host.call(remove_guard)
        assert "slim" not in host.run("nft", "list", "ruleset").stdout
    finally:
        for each in (*receiving.values(), sender, other):
            each.close()


def _bound(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.bind((address, 14789))
    made.settimeout(10)
    return made
