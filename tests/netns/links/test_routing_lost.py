"""Tests that slim restores what others remove: in containers, on the host's links, the guard.

A network manager on the host, or in a privileged container, removes what it has not made.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.cluster.etcd_world import LONG_S, Box
from tests.netns.kept_off.rules_world import Hosts, hosts
from tests.support.run.wait import wait_until

__all__ = ["hosts"]
pytestmark = pytest.mark.timeout(600)

REPAIR_S = 20.0  # shorter than the driver's own interval (driver.compose.parts.kernel.GUARD_S)
REMOVALS = (
    "ip rule del pref 10", "ip rule del pref 11", "ip rule del pref 20",
    "ip rule add pref 0 lookup local protocol kernel",
    "ip route del local U table local", "ip route flush table 20765",
    "ip rule flush", "tc qdisc del dev eth0 clsact",
    "tc filter del dev eth0 ingress",
)


@pytest.fixture(scope="module")
def box(hosts: Hosts) -> Iterator[Box]:
    with hosts.box(hosts.there) as made:
        yield made


def shown(box: Box) -> str:
    """Return all that slim has set up inside."""
    inside = box.netns
    return "".join((
        *(line for line in sorted(inside.ip("rule").splitlines(keepends=True))
          if not line.startswith("3276")),
        inside.ip("route show table 20765"), inside.ip("route show table local proto 81"),
        str("slim_to_container" in inside.run("tc", "filter", "show", "dev", "eth0",
                                              "ingress").stdout)))


@pytest.mark.parametrize("removal", REMOVALS)
def test_what_is_removed_inside_comes_back(hosts: Hosts, box: Box, removal: str) -> None:
    hosts.wait_on(box)
    wanted = shown(box)
    underlay = hosts.there.status()["underlay"].split()[0]
    box.netns.run(*removal.replace(" U ", f" {underlay} ").split())
    if "rule flush" in removal:  # this removes the container's own rules, too
        box.netns.ip("rule add pref 32766 lookup main")
    # Connections work at once, both ways, on whatever path.
    assert hosts.call(hosts.near, box) == "hello"
    assert hosts.call(box, hosts.near) == "hello"
    wait_until(lambda: shown(box) == wanted, LONG_S, "all of it to be back")
    hosts.wait_on(box)
    hosts.assert_host_path(hosts.near, box)
    hosts.assert_host_path(box, hosts.near)


def test_again_and_again(hosts: Hosts, box: Box) -> None:
    wanted = shown(box)
    for _ in range(8):
        box.netns.ip("rule del pref 10")
        wait_until(lambda: shown(box) == wanted, LONG_S, "the rule to be back")
    hosts.wait_on(box)
    hosts.assert_host_path(box, hosts.near)


def test_until_it_is_back_connections_take_the_overlay(hosts: Hosts, box: Box) -> None:
    """A program removes it faster than slim can restore it."""
    thief = box.netns.start("sh", "-c", "while :; do ip rule del pref 10 2>/dev/null; done")
    try:
        wait_until(lambda: "routing_lost 1" in hosts.there.status()["host path"], LONG_S,
                   "the loss to be seen")
        hosts.assert_overlay(box, hosts.near, "routing_lost")
    finally:
        thief.kill()
        thief.communicate()
    hosts.wait_on(box)
    hosts.assert_host_path(box, hosts.near)


@pytest.mark.parametrize("removal", [
    "tc qdisc del dev eth0 clsact", "tc filter del dev eth0 ingress",
    "tc qdisc del dev slim-vxlan clsact", "ip link del slim-vxlan",
    "tc qdisc del dev HOSTEND clsact"])
def test_what_is_removed_from_the_hosts_links_comes_back(
        hosts: Hosts, box: Box, removal: str) -> None:
    host = hosts.there.netns
    end = f"sl{box.endpoint[:11]}"
    host.run(*removal.replace("HOSTEND", end).split())
    for device, program in (("eth0", "slim_from_wire"), ("slim-vxlan", "slim_from_overlay"),
                            (end, "slim_from_container")):
        wait_until(lambda d=device, p=program: p in host.run(  # type: ignore[misc]
            "tc", "filter", "show", "dev", d, "ingress", check=False).stdout, LONG_S,
            f"{program} on {device}")
    hosts.assert_host_path(hosts.near, box)
    assert hosts.near.netns.run("ping", "-c1", "-W5", box.ip).returncode == 0


def test_a_flushed_rule_set_has_its_guard_again(hosts: Hosts) -> None:
    host = hosts.there
    wait_until(lambda: host.status()["guard"].startswith("1 hosts"), LONG_S, "the guard")
    for _ in range(3):
        host.netns.run("nft", "flush", "ruleset")
        wait_until(lambda: host.netns.run("nft", "list", "table", "ip", "slim", check=False
                                          ).stdout.count("drop") == 5, REPAIR_S,
                   "the guard's rules")
    assert "flush the rule set?" in host.log()
