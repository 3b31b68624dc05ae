"""Tests `slim test` with two drivers whose hosts have IPv6 only, and one of IPv4 among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.cluster.etcd_world import LONG_S, running_world
from tests.netns.cluster.test_ipv6_underlay import World6, third_host
from tests.netns.underlay.test_ways import UDP, between, faults, found, run
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World6]:
    with running_world(tmp_path_factory.mktemp("ways6"), World6) as made:
        yield made


@contextmanager
def rules(netns: Netns, hook: str, rule: str) -> Iterator[None]:
    netns.run("nft", f"table ip6 fire {{ chain c {{ type filter hook {hook} priority 0; {rule} }}; "
              "}")
    try:
        yield
    finally:
        netns.run("nft", "delete table ip6 fire")


def test_all_is_well(world: World6) -> None:
    said = found(world.hosts[0])
    assert said["faults"] == []
    assert len(said["hosts"]) == len(said["ways"]) == 2
    for way in said["ways"]:
        assert way["udp_passed"] == [64, 1024, 1430]
        assert way["path_mtu"] == 1500
        assert way["round_trip_ms"] > 0
        assert len(way["syns"]) == 2
    for each in said["hosts"]:
        assert each["guard_in_force"]


def test_people_see_a_matrix(world: World6) -> None:
    done = run(world.hosts[0])
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2 hosts, 2 took part; 2 of 2 ways tested in ")
    assert sum("  fd00:198:18:7::" in line and "in force" in line for line in lines) == 2
    assert lines[-1] == "all well"


def test_the_hosts_own_filters(world: World6) -> None:
    first, second = world.hosts
    with rules(second.netns, "input", f"{UDP} drop;"):
        said = found(first)
        assert faults(world, said) == {("udp-in", "1>2")}
        assert "ip6tables -I INPUT -p udp --dport 14789 -j ACCEPT" in said["faults"][0]["text"]
    with rules(first.netns, "output", f"{UDP} drop;"):
        assert faults(world, found(second)) == {("udp-out", "1>2")}
    assert found(second)["faults"] == []


@pytest.mark.parametrize(("rule", "kind"), [
    (f"{UDP} drop;", "udp"), ("ip6 length > 1360 drop;", "mtu"),  # without IPv6's header of 40
    ("icmpv6 type echo-request drop;", "ping"), ("meta l4proto != icmpv6 drop; icmpv6 type "
                                                 "echo-request drop;", "cut")])
def test_what_is_between_the_hosts(world: World6, rule: str, kind: str) -> None:
    with between(world, rule, towards=2):
        seen = faults(world, found(world.hosts[0])) - {
            ("ping", "2>1"), ("probes", "1>2"), ("probes", "2>1"), ("probes", "1>2 2>1")}
        assert seen == {(kind, "1>2")}
    wait_until(lambda: found(world.hosts[0])["faults"] == [], LONG_S, "all is well again")


def test_a_host_of_the_other_family(world: World6, tmp_path: Path) -> None:
    """No fault of the network: each family is well by itself."""
    with third_host(world, tmp_path / "third") as other:
        done = run(world.hosts[0])
        assert done.returncode == 0, done
        assert "3 hosts, 3 took part; 2 of 2 ways tested" in done.stdout
        hint = next(line for line in done.stdout.splitlines() if line.startswith("~ families: "))
        assert "by design" in hint
        assert "Traceback" not in other.log()
        said = found(other)
        assert [fault["kind"] for fault in said["faults"]] == ["families"]
        assert said["faults"][0]["hint"]
        print(done.stdout)
