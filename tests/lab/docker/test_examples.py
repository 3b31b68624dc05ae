"""Tests examples/visits as shipped, with stand-ins for its images: brought up, used, torn down.

The `hosts` fixture checks after each test that nothing is left.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.lab.rig.compose import Project, project
from tests.lab.rig.dockers import docker, every_docker, feature
from tests.lab.rig.hosts import PROJECT, CommandFailed, Host, Lab
from tests.lab.rig.standard_images import load_standard_images
from tests.lab.rig.traffic import only_host_path
from tests.support.run.wait import wait_until

VISITS = 10
STORED_S = 90
# The writer opens its only connection to Redis in its first millisecond.  If the driver has not yet
# finished the sandbox, that connection stays on the overlay path; later ones do not.
OLDER = ("overlay_local",)
OF_STACK = ("--filter", "label=com.docker.stack.namespace=visits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example's folder, with the password file that its first line tells users to make."""
    copied = shutil.copytree(PROJECT / "examples/visits", tmp_path / "visits",
                             ignore=shutil.ignore_patterns("postgres_password"))
    (copied / "postgres_password").write_text(secrets.token_hex(16))
    return copied


@pytest.fixture(autouse=True)
def standard_images(lab: Lab) -> None:
    load_standard_images(lab)


def visit(caller: Host, server: Host, path: str = "/") -> str:
    """Ask the published port from another host."""
    return caller.exec("busybox", "wget", "-qO-", f"http://{server.address}:8080{path}").strip()


def is_answered(caller: Host, server: Host) -> bool:
    try:
        return visit(caller, server) != ""
    except CommandFailed:
        return False


def stored(host: Host, postgres: str) -> int:
    """Return how many visits that container's PostgreSQL has; -1 while it does not answer."""
    try:
        return int(host.docker("exec", postgres, "psql", "-U", "postgres", "-Atc",
                               "select count(*) from visits"))
    except CommandFailed:
        return -1


def wait_until_stored(host: Host, postgres: Callable[[], str], visits: int) -> None:
    """Wait long: a new database takes time, and Docker restarts the programs that miss it.

    postgres: finds the container, which a swarm may start later than those that have answered.
    """
    with suppress(AssertionError):  # the next one says how many there are
        wait_until(lambda: stored(host, postgres()) >= visits, STORED_S, "all visits are stored",
                   0.1)
    assert stored(host, postgres()) == visits


def use_stack(manager: Host, nodes: Sequence[Host], folder: Path) -> None:
    """Deploy the stack in a swarm whose nodes all have slim:latest, use it, remove it."""
    manager.docker("node", "update", "--label-add", "visits=data",
                   manager.docker("node", "inspect", "-f", "{{.ID}}", "self"))
    try:
        # The nodes have the images; there is no registry to ask.
        manager.docker("stack", "deploy", "--resolve-image", "never", "-c",
                       str(folder / "stack.yaml"), "visits")
        for node in nodes:
            wait_until(partial(is_answered, manager, node), 60, f"{node.name} answers", 0.2)
        count = int(visit(manager, nodes[0]).removeprefix("visit "))
        for node in nodes:
            count += 1
            assert visit(manager, node) == f"visit {count}", "one application, wherever it runs"
        find = ("ps", "-q", "--filter", "label=com.docker.swarm.service.name=visits_postgres")
        wait_until_stored(manager, lambda: manager.docker(*find), count)
    finally:
        manager.docker("stack", "rm", "visits")
        for node in nodes:
            wait_until(partial(has_nothing_of_stack, node), 60, f"{node.name} is empty", 0.2)
            if volumes := node.docker("volume", "ls", "-q", *OF_STACK).split():
                node.docker("volume", "rm", *volumes)


def has_nothing_of_stack(node: Host) -> bool:
    listed = ("ps", "-aq"), ("network", "ls", "-q")
    return not any(node.docker(*what, *OF_STACK) for what in listed)


@every_docker
@feature("Compose: web, Redis and PostgreSQL on one host (examples/visits)")
def test_one_host(h1: Host, h2: Host, folder: Path) -> None:
    with project(h1, folder) as visits:
        visits("up", "-d")
        postgres = visits.container("postgres")
        assert visit(h2, h1) == "visit 1"
        with only_host_path(h1, h1, older=OLDER) as traffic:
            for number in range(VISITS):
                assert visit(h2, h1, f"/{number}") == f"visit {number + 2}"
            wait_until_stored(h1, lambda: postgres, VISITS + 1)
        # From nginx to the application, from there to Redis, and from the writer to PostgreSQL.
        assert traffic.connected(h1) >= 3 * VISITS
        assert traffic.accepted(h1) >= 3 * VISITS
        assert "default" in visits.exec("app", "ip", "route", "show")
        assert "default" not in visits.exec("redis", "ip", "route", "show"), "`back` is internal"

        # `up` again changes nothing; restarted containers keep their data and names.
        before = visits("ps", "-q")
        visits("up", "-d")
        assert visits("ps", "-q") == before
        visits("restart", "-t", "5", "redis", "postgres", "app")
        wait_until(lambda: is_answered(h2, h1), 20, "an answer after the restart", 0.1)
        counted = int(visit(h2, h1).removeprefix("visit "))
        assert counted > VISITS + 1, "Redis has kept the count"
        wait_until_stored(h1, lambda: postgres, counted)


@every_docker
@feature("Compose: one project on two hosts that share a network (examples/visits)")
def test_two_hosts(h1: Host, h2: Host, folder: Path) -> None:
    file = "two-hosts.yaml"
    with project(h1, folder, file, "web") as web, project(h2, folder, file, "database") as data:
        web("up", "-d")
        assert visit(h2, h1) == "visit 1"  # it waits in the queue while there is no database
        data("up", "-d")
        postgres = data.container("postgres")
        wait_until_stored(h2, lambda: postgres, 1)
        with only_host_path(h1, h2, older=OLDER) as traffic:
            for number in range(VISITS):
                assert visit(h2, h1, f"/{number}") == f"visit {number + 2}"
            wait_until_stored(h2, lambda: postgres, VISITS + 1)
        assert traffic.accepted(h2) >= VISITS, "the writer's, from the other host"
        # The database must come back by its name, whatever its address is then.
        data("restart", "-t", "5", "postgres")
        visit(h2, h1)
        wait_until_stored(h2, lambda: postgres, VISITS + 2)


@docker("20.10")
@feature("Compose: a stack is understood (examples/visits)")
def test_stack_is_understood_by_compose_1(h1: Host, folder: Path) -> None:
    assert "slim:latest" in Project(h1, folder, "stack.yaml")("config")


@docker("26", "28")
@feature("Compose: a stack is understood (examples/visits)")
def test_stack_is_understood(h1: Host, folder: Path) -> None:
    said = h1.exec("env", "-C", str(folder), "docker", "stack", "config", "-c", "stack.yaml")
    assert "slim:latest" in said
