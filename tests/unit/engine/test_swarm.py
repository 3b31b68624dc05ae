"""Tests reading Docker's answers about a swarm, with an HTTP server in dockerd's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from driver.engine.swarm import DockerSwarm, DockerSwarmUsers
from driver.errors import EngineUnavailable
from driver.model import NetworkId, Vip
from driver.services.ports import SwarmPool
from tests.support.fakes.docker_api import serving

NO_MANAGER = "This node is not a swarm manager. Worker nodes can't be used to view or modify ..."


def task(service: str, state: str, *addresses: str, network: str = "ours") -> dict[str, Any]:
    return {"ServiceID": service, "Status": {"State": state}, "NetworksAttachments": [
        {"Network": {"ID": network}, "Addresses": list(addresses)},
        {"Network": {"ID": "ingress"}, "Addresses": ["10.0.0.9/24"]}]}


def service(name: str, *vips: tuple[str, str], update: str = "") -> dict[str, Any]:
    return {"ID": f"id-{name}", "Spec": {"Name": name},
            "UpdateStatus": {"State": update} if update else None,
            "Endpoint": {"VirtualIPs": [{"NetworkID": network, "Addr": address}
                                        for network, address in vips]}}


class Dockerd:
    """Answers by path; `asked` counts the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.answers: dict[str, Any] = {
            "version": {"ApiVersion": "1.41"}, "swarm": {"ID": "swarm-id"},
            "plugins": [
                {"Name": "me/slim:1", "Config": {"Interface": {"Socket": "slim.sock"}}},
                {"Name": "volumes:latest", "Config": {"Interface": {"Socket": "v.sock"}}}],
            "networks": [{"Id": "ours", "Driver": "me/slim:1"},
                         {"Id": "theirs", "Driver": "overlay"}],
            "services": [service("web", ("ours", "10.32.0.9/16"), ("theirs", "10.0.1.2/24")),
                         service("db", ("ours", "10.32.0.10/16")),
                         service("dnsrr"), {"ID": "id-old", "Spec": {"Name": "old"}}],
            "tasks": [task("id-web", "running", "10.32.0.3/16"),
                      task("id-web", "running", "fd00::3/64", "10.32.0.2/16"),
                      task("id-web", "starting", "10.32.0.4/16")]}

    def answer(self, url: str) -> tuple[int, Any]:
        parts = urlsplit(url)
        name = parts.path.rpartition("/")[2]
        self.asked.append(name)
        if name == "tasks":
            filters = json.loads(parse_qs(parts.query)["filters"][0])
            assert set(filters) == {"desired-state", "service"}
            wanted = [each for each in self.answers["tasks"]
                      if each["ServiceID"] in filters["service"]]
            return self.status, wanted
        return self.status if name != "version" else 200, self.answers[name]


@pytest.fixture
def dockerd() -> Dockerd:
    return Dockerd()


@pytest.fixture
def swarm(dockerd: Dockerd, tmp_path: Path) -> Iterator[DockerSwarm]:
    path = str(tmp_path / "docker.sock")
    with serving(path, dockerd.answer):
        made = DockerSwarm(path)
        yield made
        made.close()


def address(*texts: str) -> tuple[IPv4Address, ...]:
    return tuple(map(IPv4Address, texts))


def test_services_on_our_networks_with_their_running_tasks(swarm: DockerSwarm,
                                                           dockerd: Dockerd) -> None:
    view = swarm.look()
    assert view is not None
    assert view.swarm_id == "swarm-id"
    assert view.services == (
        Vip(NetworkId("ours"), *address("10.32.0.9"), "web",
                address("10.32.0.2", "10.32.0.3")),
        Vip(NetworkId("ours"), *address("10.32.0.10"), "db", ()))
    assert view.changing, "a task is starting"


def test_a_later_look_asks_for_services_and_tasks_only(swarm: DockerSwarm,
                                                       dockerd: Dockerd) -> None:
    dockerd.answers["tasks"].pop()
    view = swarm.look()
    assert view is not None
    assert not view.changing
    dockerd.asked.clear()
    dockerd.answers["services"][1]["UpdateStatus"] = {"State": "updating"}
    view = swarm.look()
    assert view is not None
    assert view.changing
    assert dockerd.asked == ["services", "tasks"]
    dockerd.answers["networks"].append({"Id": "new", "Driver": "me/slim:1"})
    dockerd.answers["services"].append(service("late", ("new", "10.33.0.9/16")))
    view = swarm.look()
    assert view is not None
    assert [each.name for each in view.services] == ["web", "db", "late"]


def test_a_swarm_without_our_networks(swarm: DockerSwarm, dockerd: Dockerd) -> None:
    dockerd.answers["networks"] = [{"Id": "ours", "Driver": "overlay"}]
    view = swarm.look()
    assert view is not None
    assert (view.services, view.changing) == ((), False)
    assert "tasks" not in dockerd.asked


def test_no_manager(swarm: DockerSwarm, dockerd: Dockerd) -> None:
    dockerd.status, dockerd.answers["services"] = 503, {"message": NO_MANAGER}
    assert swarm.look() is None


def test_a_manager_that_cannot_tell(swarm: DockerSwarm, dockerd: Dockerd) -> None:
    dockerd.status, dockerd.answers["services"] = 503, {
        "message": "rpc error: The swarm does not have a leader."}
    with pytest.raises(EngineUnavailable, match="does not have a leader"):
        swarm.look()
    dockerd.status, dockerd.answers["services"] = 200, "what?"
    with pytest.raises(EngineUnavailable):
        swarm.look()


def network(network_id: str, driver: str, *configs: dict[str, str], scope: str = "swarm"
            ) -> dict[str, Any]:
    return {"Id": network_id, "Name": f"name-{network_id}", "Scope": scope, "Driver": "overlay",
            "IPAM": {"Driver": driver, "Config": list(configs)}, "Containers": None}


@pytest.fixture
def users(dockerd: Dockerd, tmp_path: Path) -> Iterator[DockerSwarmUsers]:
    dockerd.answers["networks"] = [
        network("ours", "me/slim:1", {
            "Subnet": "10.32.0.7/16", "IPRange": "10.32.128.0/17", "Gateway": "10.32.0.1"},
            {"Subnet": "fd00:32::/64", "Gateway": "fd00:32::1/64"}),
        network("theirs", "default", {"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}),
        network("local", "me/slim:1", {"Subnet": "10.34.0.0/16"}, scope="local"),
        {**network("gone", "me/slim:1", {"Subnet": "10.35.0.0/16"}), "Containers": {}},
        network("early", "me/slim:1"), {"Id": "none", "Name": "none", "Scope": "swarm"}]
    path = str(tmp_path / "docker.sock")
    with serving(path, dockerd.answer):
        yield DockerSwarmUsers(path)


def test_what_the_managers_have_requested_of_us(users: DockerSwarmUsers, dockerd: Dockerd) -> None:
    """The IPAM's driver decides, whatever the network's driver is."""
    dockerd.answers["services"].append(service(
        "odd", ("ours", "192.0.2.1/24"), ("theirs", "10.32.0.77/16"), ("ours", "")))
    for asked in (["networks", "services", "plugins"], ["networks", "services"]):
        dockerd.asked.clear()
        found = users.look()
        assert found.pools == (
            SwarmPool(NetworkId("ours"), "name-ours", "10.32.0.0/16", "10.32.128.0/17",
                      IPv4Address("10.32.0.1")),
            SwarmPool(NetworkId("ours"), "name-ours", "fd00:32::/64", "",
                      IPv6Address("fd00:32::1")))
        assert found.vips == {
            ("10.32.0.0/16", IPv4Address("10.32.0.9")): "web",
            ("10.32.0.0/16", IPv4Address("10.32.0.10")): "db"}
        assert dockerd.asked == ["version", *asked]


def test_while_nobody_leads_the_swarm_nothing_is_said_of_networks(
        users: DockerSwarmUsers, dockerd: Dockerd) -> None:
    dockerd.status, dockerd.answers["services"] = 503, {
        "message": "rpc error: The swarm does not have a leader."}
    with pytest.raises(EngineUnavailable):
        users.look()
