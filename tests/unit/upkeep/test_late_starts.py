"""Tests which containers are started in Docker's place, and that it ends with the reason for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from driver.engine.starts import should_run
from driver.errors import EngineUnavailable
from driver.model import NetworkId
from driver.services.upkeep.starts import FIRST_S, LATER_S, SOON_S, LateStarts
from driver.work.ledger import Ledger

NO_PLUGIN = 'plugin "slim" not found'
NO_ETCD = "remote: etcd is not available, cannot read"


def said(policy: str | None = "always", error: str = NO_PLUGIN, *,
         running: bool = False) -> dict[str, Any]:
    return {"HostConfig": {"RestartPolicy": {"Name": policy, "MaximumRetryCount": 0}},
            "State": {"Running": running, "Error": error}}


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
@pytest.mark.parametrize("error", [
    NO_PLUGIN, NO_ETCD, "NetworkDriver.CreateEndpoint: slim does not start: no such device",
    "legacy plugin: Plugin.Activate: slim does not start: port_range='7'",
    'failed to set up container networking: plugin "slim:latest" not found',
    "failed to create endpoint a on network app: remote: 10.32.0.0/29 has no free address"])
def test_who_should_run(policy: str, error: str) -> None:
    assert should_run(said(policy, error))


@pytest.mark.parametrize("container", [
    said("no"), said(""), said(None), said(error=""), said(running=True),
    said(error="OCI runtime create failed: exec: \"nginxx\": executable file not found"),
    said(error="driver failed programming external connectivity: port is already allocated"),
    said(error='plugin "other" not found'), {}, {"HostConfig": None, "State": None},
    {"HostConfig": {"RestartPolicy": None}, "State": {"Error": None}}])
def test_who_should_not(container: dict[str, Any]) -> None:
    assert not should_run(container)


class Docker:
    """The fake of FailedStarts."""

    def __init__(self) -> None:
        self.down: dict[str, str] = {}  # who should run
        self.asked: list[Collection[NetworkId]] = []
        self.started: list[str] = []
        self.error: Exception | None = None
        self.away = False

    def failed(self, networks: Collection[NetworkId]) -> dict[str, str]:
        self.asked.append(networks)
        if self.away:
            raise EngineUnavailable("no Docker")
        return dict(self.down)

    def start(self, container_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.started.append(container_id)
        self.down.pop(container_id, None)


class World:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.docker = Docker()
        self.ledger = Ledger(pause_s=lambda _failed, _error: 0.0)
        self.starts = LateStarts(self.docker, lambda: [NetworkId("n")], self.ledger,
                                 lambda: self.now_s)

    def look(self) -> list[str]:
        """Look, and do what is to be done; return who is started."""
        del self.docker.started[:]
        self.starts.look()
        self.ledger.run()
        return sorted(self.docker.started)


@pytest.fixture
def world() -> World:
    return World()


def test_each_is_started_once(world: World) -> None:
    assert world.look() == []
    assert world.docker.asked == [["n"]]
    world.docker.down = {"1" * 64: "web", "2" * 64: "db"}
    assert world.look() == ["1" * 64, "2" * 64]
    assert world.look() == []
    assert world.ledger.outstanding() == []


def test_a_start_that_fails_is_repeated_and_shown(world: World) -> None:
    world.docker.down = {"1" * 64: "web"}
    world.docker.error = EngineUnavailable("etcd is not available")
    assert world.look() == []
    (step,) = world.ledger.outstanding()
    assert (step.what, step.error) == ("start of container web", "etcd is not available")
    world.look()
    assert world.ledger.outstanding()[0].attempts == 2, "the same step goes on"
    world.docker.error = None
    assert world.look() == ["1" * 64]
    assert world.ledger.outstanding() == []


def test_whoever_needs_it_no_more_is_left_alone(world: World) -> None:
    """It was removed, started by somebody, or has no restart policy any more."""
    world.docker.down = {"1" * 64: "web"}
    world.docker.error = EngineUnavailable("no")
    world.look()
    world.docker.down = {}
    world.docker.error = None
    assert world.look() == []
    assert world.ledger.outstanding() == []


def test_without_docker_nobody_is_started_and_nothing_is_forgotten(world: World) -> None:
    world.docker.down = {"1" * 64: "web"}
    world.docker.error = EngineUnavailable("no")
    world.look()
    world.docker.away = True
    world.look()
    assert len(world.ledger.outstanding()) == 1


def test_it_looks_often_at_first_and_while_there_is_anybody(world: World) -> None:
    assert world.starts.interval_s() == SOON_S
    world.now_s = FIRST_S
    assert world.starts.interval_s() == LATER_S
    world.docker.down = {"1" * 64: "web"}
    world.docker.error = EngineUnavailable("no")
    world.look()
    assert world.starts.interval_s() == SOON_S
