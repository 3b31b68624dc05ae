"""Tests `slim test` with two drivers: faults between their hosts are found, named, and mended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from driver.store.format import keys
from tests.conftest import PROJECT
from tests.netns.cluster.etcd_world import LONG_S, World
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns
from tests.support.world.served import Host

pytestmark = pytest.mark.timeout(600)
UDP = "udp dport 14789"


def command(host: Host, *arguments: str) -> list[str]:
    return host.netns.command(
        sys.executable, "-m", "driver", "test", *host.etcd_options, "--config", os.devnull,
        "--state", str(host.folder / "state"), "--socket", host.socket, *arguments)


def run(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(host, *arguments), cwd=PROJECT, check=False,
                          capture_output=True, text=True, timeout=120)


def found(host: Host, *arguments: str) -> dict[str, Any]:
    """Return the result as JSON; the exit status must agree with it."""
    done = run(host, "--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if said["all_well"] else 1)
    return said


def ids(world: World) -> list[str]:
    return [(host.folder / "state" / "host-id").read_text().strip() for host in world.hosts]


def faults(world: World, said: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the faults, each with the ways as "1>2"."""
    number = {each: str(at) for at, each in enumerate(ids(world), 1)}
    return {(fault["kind"], " ".join(sorted(
        f"{number[way['from']]}>{number[way['to']]}" for way in fault["ways"])))
        for fault in said["faults"]}


@contextmanager
def rules(netns: Netns, text: str) -> Iterator[None]:
    netns.run("nft", f"table ip fire {{ {text}; }}")
    try:
        yield
    finally:
        netns.run("nft", "delete table ip fire")


@contextmanager
def between(world: World, rule: str, towards: int) -> Iterator[None]:
    """A rule on the wire for what goes to one host."""
    world.wire.run("nft", f"table netdev fire {{ chain c {{ type filter hook ingress device "
                   f"p{3 - towards} priority 0; {rule} }}; }}")
    try:
        yield
    finally:
        world.wire.run("nft", "delete table netdev fire")


def test_all_is_well(world: World) -> None:
    said = found(world.hosts[0])
    assert said["faults"] == []
    assert len(said["hosts"]) == len(said["ways"]) == 2
    for way in said["ways"]:
        assert way["udp_passed"] == [64, 1024, 1450]
        assert way["path_mtu"] == 1500
        assert way["round_trip_ms"] > 0
        assert len(way["syns"]) == 2
    for each in said["hosts"]:
        assert each["guard_in_force"]
        assert each["clock_ahead_s"]["least"] <= 0 <= each["clock_ahead_s"]["most"]
    assert world.cluster.entries(keys.ROOT + "test/") == []
    for host in world.hosts:
        assert "Traceback" not in host.log()


def test_people_see_a_matrix(world: World) -> None:
    done = run(world.hosts[0])
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2 hosts, 2 took part; 2 of 2 ways tested in ")
    assert lines[-1] == "all well"
    assert sum("in force" in line for line in lines) == 2


@pytest.mark.parametrize(("hook", "rule", "kind"), [
    ("input", f"{UDP} drop;", "udp-in"), ("input", f"{UDP} reject;", "udp-in")])
def test_the_receivers_own_filter(world: World, hook: str, rule: str, kind: str) -> None:
    second = world.hosts[1]
    with rules(second.netns, f"chain c {{ type filter hook {hook} priority 0; {rule} }}"):
        said = found(world.hosts[0])
        assert faults(world, said) == {(kind, "1>2")}
        assert "-I INPUT -p udp --dport 14789 -j ACCEPT" in said["faults"][0]["text"]
    assert found(second)["faults"] == []


def test_the_senders_own_filter(world: World) -> None:
    with rules(world.hosts[0].netns,
               f"chain c {{ type filter hook output priority 0; {UDP} drop; }}"):
        assert faults(world, found(world.hosts[1])) == {("udp-out", "1>2")}


@pytest.mark.parametrize(("rule", "kind"), [
    (f"{UDP} drop;", "udp"), ("ip length > 1400 drop;", "mtu"),
    ("reset tcp option 254;", "option"), ("tcp option 254 exists drop;", "tcp"),
    ("tcp dport 65535 drop;", "tcp"), ("icmp type echo-request drop;", "ping"),
    ("ip protocol != tcp drop; tcp flags syn drop;", "cut")])
def test_what_is_between_the_hosts(world: World, rule: str, kind: str) -> None:
    """The other direction is well; the driver's own probes may have noticed, too."""
    with between(world, rule, towards=2):
        seen = faults(world, found(world.hosts[0])) - {("probes", "1>2"), ("probes", "2>1"),
                                                       ("ping", "2>1"), ("probes", "1>2 2>1")}
        assert seen == {(kind, "1>2")}
    wait_until(lambda: found(world.hosts[0])["faults"] == [], LONG_S, "all is well again")


def test_a_stopped_driver(world: World) -> None:
    first, second = world.hosts
    assert second.end_driver(signal.SIGTERM) == 0
    try:
        said = found(first)
        assert {fault["kind"] for fault in said["faults"]} == {"no-driver"}
        assert said["faults"][0]["host"] == ids(world)[1]
        assert "198.18.7.2" in said["faults"][0]["text"]
        assert said["ways"] == []
        assert found(second)["faults"] == said["faults"], "without a driver here"
    finally:
        second.start_driver()
    wait_until(lambda: found(first)["faults"] == [], LONG_S, "all is well again")


def test_a_driver_that_hangs(world: World) -> None:
    first, second = world.hosts
    assert second.driver is not None
    second.driver.send_signal(signal.SIGSTOP)
    try:
        said = found(first)
        assert {fault["kind"] for fault in said["faults"]} == {"no-answer"}
    finally:
        second.driver.send_signal(signal.SIGCONT)
    wait_until(lambda: found(first)["faults"] == [], LONG_S, "all is well again")


def test_two_at_once_take_turns(world: World) -> None:
    both = [subprocess.Popen(command(host, "--json"), cwd=PROJECT, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for host in world.hosts]
    for each in both:
        out, err = each.communicate(timeout=120)
        assert each.returncode == 0, err
        assert json.loads(out)["faults"] == []


def test_one_direction_and_one_host(world: World) -> None:
    first, second = ids(world)
    said = found(world.hosts[0], "--from-here")
    assert [(way["from"], way["to"]) for way in said["ways"]] == [(first, second)]
    said = found(world.hosts[0], "--host", second)
    assert len(said["ways"]) == 2


def test_it_cannot_run(world: World) -> None:
    for arguments, words in ((("--host", "nobody"), "no host is called 'nobody'"),
                             (("--etcd", "https://10.99.7.1:1"), "etcd")):
        done = run(world.hosts[0], *arguments)
        assert done.returncode == 2, done
        assert words in done.stderr


def test_containers_do_not_notice(world: World) -> None:
    before = [host.counters() for host in world.hosts]
    assert found(world.hosts[0])["all_well"]
    for host, counted in zip(world.hosts, before, strict=True):
        grown = {name for name, value in host.counters().items() if value != counted[name]}
        assert grown <= {"not_ip", "probe_unknown"}
    world.assert_data_path()
