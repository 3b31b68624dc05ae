"""Tests a swarm whose leader stops, whose nodes are drained and die, whose plugin is restarted.

Rows 59-61 of the plugin contract's checklist.  `nodes` checks after each test that nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import address_of, call, start
from tests.lab.restarts.test_dockerd import start_dockerd, stop_dockerd
from tests.lab.restarts.test_driver import Load
from tests.lab.rig.dockers import feature
from tests.lab.rig.hosts import LAB_SH, CommandFailed, Host, Lab, run
from tests.lab.rig.plugged import (
    PLUGIN,
    create_network,
    create_service,
    enable,
    find_socket,
    install,
    published,
    running,
    task_containers,
    wait_running,
)
from tests.lab.swarm.test_swarm import many, web  # noqa: F401 - a fixture
from tests.support.run.wait import wait_until

pytestmark = pytest.mark.timeout(400)
LEADER_S = 60
CLEAN_S = 60  # collecting takes two looks, and what was made anew goes only then


def swarm_nodes(asked: Host) -> list[str]:
    """List each node's name, status and manager status; empty during an election."""
    try:
        return asked.docker("node", "ls", "--format",
                            "{{.Hostname}} {{.Status}} {{.ManagerStatus}}").splitlines()
    except CommandFailed:
        return []


def leader(asked: Host) -> str:
    """Return the leader's name, as `asked` sees it."""
    return next((line.split()[0] for line in swarm_nodes(asked) if line.endswith("Leader")), "")


def task_addresses(nodes: list[Host], service: str) -> set[str]:
    return {address_of(host, task) for host in nodes for task in task_containers(host, service)}


def wait_published(lab: Lab, service: str, count: int) -> None:
    wait_until(lambda: len(published(lab).get(service, ())) == count, 60,
               f"{count} tasks of {service} are published", 0.1)


@feature("Swarm: leaders, nodes and plugins that go")
def test_the_leader_stops(web: list[Host], plugged: Lab) -> None:  # noqa: F811 - the fixture
    """A new leader requests all pools and addresses again: their holders stay the same.

    One `network rm` then releases them all, which `nodes` checks.
    """
    name = leader(web[1])
    gone = next(host for host in web if host.name == name)
    others = [host for host in web if host is not gone]
    client = web[1]
    if gone is client:
        start(others[0], "client")
        client = others[0]
    kept = task_addresses(others, "web")
    stop_dockerd(gone, "TERM")
    try:
        wait_until(lambda: leader(others[0]) not in ("", name), LEADER_S, "a new leader", 0.2)
        create_service(others[0], "late", "--mode", "global", command=SERVE)
        wait_until(lambda: running(others[0], "late") >= 2, 90, "late runs", 0.2)
        assert kept <= task_addresses(others, "web")
        wait_until(lambda: len(task_addresses(others, "web")) == 3, 90,
                   "three tasks on the nodes that are left", 0.2)
        wait_until(lambda: published(plugged)["web"] == task_addresses(others, "web"), 60,
                   "they are published", 0.2)
        assert len(task_addresses(others, "web") | task_addresses(others, "late")) == 5
        answered, failed = many(client, "client", "web", 60)
        assert (len(answered), failed) == (3, {})
    finally:
        start_dockerd(gone)
        wait_until(lambda: leader(gone) != "", LEADER_S, "it is a manager again", 0.2)
    find_socket(gone)


@feature("Swarm: leaders, nodes and plugins that go")
def test_a_node_is_drained(web: list[Host], plugged: Lab) -> None:  # noqa: F811 - the fixture
    manager, second, third = web
    moved = {address_of(third, task) for task in task_containers(third, "web")}
    manager.docker("node", "update", "--availability", "drain", "h3")
    try:
        wait_until(lambda: not task_containers(third, "web"), 60, "h3 has no task", 0.2)
        wait_running(manager, "web", 3)
        wait_published(plugged, "web", 3)
        answered, failed = many(second, "client", "web", 60)
        assert (len(answered), failed) == (3, {})
        assert not moved & set(answered)
    finally:
        manager.docker("node", "update", "--availability", "active", "h3")


@feature("Swarm: leaders, nodes and plugins that go")
def test_a_node_dies(web: list[Host], plugged: Lab) -> None:  # noqa: F811 - the fixture
    """It loses power and cable; its tasks run elsewhere, and it comes back with its disk."""
    manager, second, third = web
    for action in (("link", third.name, "down"), ("crash", third.name)):
        run([str(LAB_SH), *action], env=third.lab.env)
    try:
        wait_until(lambda: len(task_addresses([manager, second], "web")) == 3, 90,
                   "three tasks on the nodes that are left", 0.5)
        wait_until(lambda: published(plugged)["web"] == task_addresses([manager, second], "web"),
                   60, "they are published", 0.2)
        answered, failed = many(second, "client", "web", 60)
        assert (len(answered), failed) == (3, {})
    finally:
        plugged.up(3)
        wait_until(lambda: any(line.startswith("h3 Ready") for line in swarm_nodes(manager)),
                   LEADER_S, "h3 is back", 0.2)
        find_socket(third)


@pytest.fixture
def load(nodes: list[Host]) -> Iterator[Load]:
    """A load from the second node to the first; none of its connections may fail."""
    create_network(nodes[0])
    load = Load(nodes[1], start(nodes[0], "server", *SERVE))
    load.goes_on()
    yield load
    load.goes_on()
    assert load.end()["failures"] == []


@feature("managed plugin: disabled, killed, installed anew; containers run on")
def test_the_plugin_is_disabled_and_enabled_under_load(load: Load, nodes: list[Host]) -> None:
    """On either end's host: open connections go on, and new ones succeed."""
    for host in nodes[:2]:
        host.docker("plugin", "disable", "-f", PLUGIN)
    load.goes_on()
    for host in nodes[:2]:
        enable(host)
    load.goes_on()


@feature("managed plugin: disabled, killed, installed anew; containers run on")
def test_the_plugin_is_installed_anew_under_load(load: Load, nodes: list[Host]) -> None:
    install(nodes[1])
    load.goes_on()


@feature("managed plugin: dockerd starts again")
def test_dockerd_starts_again(nodes: list[Host]) -> None:
    """dockerd starts the plugin, too, before the containers that need it."""
    manager, second, _ = nodes
    create_network(manager)
    there = start(manager, "server", *SERVE)
    start(second, "stays", options=["--restart", "always"])
    for how in ("TERM", "KILL"):
        stop_dockerd(second, how)
        start_dockerd(second)
        find_socket(second)
        wait_until(lambda: second.inspect("stays")["State"]["Running"],
                   60, "the container runs again", 0.2)
        assert call(second, "stays", there, "--retry-s", "10").client_peer == [there, 7000]
