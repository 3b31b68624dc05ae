"""Tests `slim ss` and `slim why` against running drivers, which know no Docker here."""

from __future__ import annotations

from typing import Any

from driver.commands.control_client import ask
from tests.netns.cluster.etcd_world import LONG_S, World
from tests.netns.kept_off.rules_world import run_on
from tests.support.run.wait import wait_until


def why(world: World, host: int, container: str, target: str) -> dict[str, Any]:
    return ask(world.hosts[host].socket, "Slim.Why", {"Container": container, "Target": target})


def test_the_open_connection_at_both_ends(world: World) -> None:
    here, there = world.boxes
    seen = []
    for box, other in ((here, there), (there, here)):
        found: Any = ask(box.host.socket, "Slim.Sockets", {"Container": box.endpoint[:12]})
        one = next(each for each in found["Sockets"] if each["Peer"] == other.ip)
        assert (found["More"], found["Unread"]) == ({}, {})
        assert (one["Container"], one["Local"], one["Path"]) == (
            box.endpoint[:12], box.ip, "host")
        seen.append((one["LocalPort"], one["PeerPort"]))
    assert seen[0] == seen[1][::-1]
    assert seen[0][1] == 80


def test_what_the_driver_knows_of_a_reason(world: World) -> None:
    """The map has the reason's number; the driver knows the table."""
    here, there = world.boxes
    assert why(world, 0, here.endpoint, there.ip)["Verdict"] == "host path"
    run_on(here.host, here.netns, "iptables-nft", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    try:
        wait_until(lambda: "has packet filter rules of its own (" in why(
            world, 0, here.endpoint, there.ip)["Verdict"], LONG_S, "the rule is seen")
        wait_until(lambda: "offers no host path" in why(
            world, 1, there.endpoint, here.ip)["Verdict"], LONG_S, "the peer is told")
    finally:
        run_on(here.host, here.netns, "iptables-nft", "-F", "INPUT")
    wait_until(lambda: why(world, 0, here.endpoint, there.ip)["Verdict"] == "host path", LONG_S,
               "the host path again")
    wait_until(lambda: why(world, 1, there.endpoint, here.ip)["Verdict"] == "host path", LONG_S,
               "the peer is told again")
