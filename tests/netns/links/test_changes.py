"""Tests changing a namespace in one system call: all changes are tried, the first error raised."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from driver.errors import LinkError
from driver.link.netlink.sockets import Changes, open_route
from driver.link.sandbox import rules
from tests.support.world.netns import Netns

MakeNetns = Callable[[str], Netns]
UNDERLAY = IPv4Address("192.0.2.1")


def test_all_are_made_and_in_order(make_sandbox: MakeNetns) -> None:
    def change() -> None:
        with open_route() as route:
            changes = Changes(route)
            with changes.step("make one") as planned:
                planned.link("add", kind="bridge", ifname="one")
            with changes.step("rename it") as planned:
                planned.link("set", index=2, ifname="two")
            assert not route.link_lookup(ifname="one")  # only planned
            changes.apply()
            changes.apply()  # nothing is left to do

    inside = make_sandbox("c")
    inside.call(change)
    assert "two" in inside.ip("-o link show")


def test_a_refusal_is_named_and_the_rest_is_done(make_sandbox: MakeNetns) -> None:
    def change() -> None:
        with open_route() as route:
            changes = Changes(route)
            with changes.step("what is ignored", ignore=(errno.ENODEV,)) as planned:
                planned.link("del", index=77)
            with changes.step("what is wrong") as planned:
                planned.link("del", index=78)
            with changes.step("what is right") as planned:
                planned.link("add", kind="bridge", ifname="made")
            changes.apply()

    inside = make_sandbox("c")
    with pytest.raises(LinkError, match="what is wrong: No such device"):
        inside.call(change)
    assert "made" in inside.ip("-o link show")


def test_the_local_table_keeps_a_rule_whatever_fails(make_sandbox: MakeNetns) -> None:
    def change() -> None:
        with open_route() as route:
            changes = Changes(route)
            superseded = rules.plan(changes, route, UNDERLAY)
            with changes.step("what is wrong") as planned:
                planned.link("del", index=78)
            changes.apply()
            rules.remove_superseded(changes, superseded)
            changes.apply()

    inside = make_sandbox("c")
    with pytest.raises(LinkError, match="what is wrong"):
        inside.call(change)
    assert inside.ip("rule").startswith("0:\tfrom all lookup local")


def test_no_descriptor_is_left(make_sandbox: MakeNetns) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def change() -> tuple[int, int]:
        with open_route() as route:
            before = descriptors()
            for _ in range(3):
                changes = Changes(route)
                with changes.step("what is ignored", ignore=(errno.ENODEV,)) as planned:
                    planned.link("del", index=77)
                changes.apply()
            return before, descriptors()

    before, after = make_sandbox("c").call(change)
    assert after == before
