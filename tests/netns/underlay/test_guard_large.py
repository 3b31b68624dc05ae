"""Tests the guard of a large cluster, beside others' large rule set."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from driver.link.netlink import nft_socket
from driver.link.netlink.names import GUARD_SET, GUARD_TABLE
from driver.link.underlay.guard import Guarded, KernelGuard
from tests.support.world.netns import Netns, made, require_root

HOSTS = 5000
OTHERS = 2000  # rules of some 100 bytes each


def elements(netns: Netns) -> int:
    listed = json.loads(netns.run("nft", "-j", "list", "set", "ip", GUARD_TABLE, GUARD_SET).stdout)
    return len(listed["nftables"][1]["set"].get("elem", ()))


GUARDED = Guarded(IPv4Address("192.0.2.9"), 1, 4789, (61000, 65535), (32768, 60999))


def test_more_hosts_than_one_message_holds() -> None:
    require_root()
    first = int(IPv4Address("10.0.0.0"))
    hosts = [IPv4Address(first + number) for number in range(HOSTS)]
    with made("guard") as netns:
        kernel_guard = KernelGuard(GUARDED)
        netns.call(lambda: kernel_guard.install(hosts))
        assert elements(netns) == HOSTS
        netns.call(lambda: kernel_guard.change([], hosts[1:]))
        assert elements(netns) == 1
        netns.call(lambda: kernel_guard.change(hosts[1:], []))
        assert elements(netns) == HOSTS
        assert netns.call(kernel_guard.dropped) == 0


def test_rules_of_others_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    rules = tmp_path / "rules"
    rules.write_text("add table ip others\nadd chain ip others every\n" + "".join(
        f"add rule ip others every ip saddr 10.1.{n // 256}.{n % 256} counter drop\n"
        for n in range(OTHERS)))
    with made("guard") as netns:
        netns.run("nft", "-f", str(rules))
        kernel_guard = KernelGuard(GUARDED)
        assert netns.call(kernel_guard.dropped) is None
        netns.call(lambda: kernel_guard.install([IPv4Address("192.0.2.1")]))
        assert netns.call(kernel_guard.dropped) == 0
        read: list[bytes] = []  # what the kernel answers to that
        answers = nft_socket.answers

        def noted(message: bytes, what: str) -> bytes:
            read.append(answers(message, what))
            return read[-1]

        monkeypatch.setattr(nft_socket, "answers", noted)
        assert netns.call(kernel_guard.dropped) == 0
        assert 0 < sum(map(len, read)) < 16384
