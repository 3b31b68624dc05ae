"""Tests the lines that make the same networks elsewhere, and what is told of Docker."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from driver.settings import Settings
from driver.support.docker_here import _look, as_json, reproduction, settings_text

NETWORK: dict[str, Any] = {
    "Name": "my app; rm -rf /", "Id": "ab" * 32, "Driver": "slim:latest", "Scope": "local",
    "EnableIPv6": True, "Internal": False, "Attachable": False,
    "IPAM": {"Driver": "slim", "Config": [{"Subnet": "10.7.0.0/16", "Gateway": "10.7.0.1"}]},
    "Options": {"slim.host_path": "off"}, "Containers": {"one": {}, "two": {}},
    "Labels": {"key": "label-secret"}}


class Client:
    """Docker's API with one of our networks and one of somebody else's."""

    def info(self) -> dict[str, Any]:
        return {"ServerVersion": "26.1", "Swarm": {"LocalNodeState": "inactive"},
                "Plugins": {"Network": ["bridge"]}, "HttpProxy": "http://proxy-secret@x"}

    def version(self) -> dict[str, str]:
        return {"ApiVersion": "1.45"}

    def networks(self) -> list[dict[str, Any]]:
        return [{"Id": "ab" * 32, "Driver": "registry/slim:latest"}, {"Id": "cd", "Driver": "b"}]

    def inspect_network(self, _network: str) -> dict[str, Any]:
        return NETWORK

    def containers(self, *, all: bool) -> list[dict[str, Any]]:
        assert all
        return [{"Names": ["/web"], "Id": "1", "State": "running", "Command": "run command-secret",
                 "Labels": {"a": "label-secret"}, "Mounts": ["mount-secret"], "NetworkSettings": {
                     "Networks": {"my": {"NetworkID": "ab" * 32, "IPAddress": "10.7.0.2"}}}},
                {"Names": ["/other"], "NetworkSettings": {"Networks": {"x": {"NetworkID": "cd"}}}}]


def test_of_docker_only_what_concerns_slim_is_told() -> None:
    text = as_json(_look(Client()))
    assert "secret" not in text
    assert "10.7.0.2" in text
    assert "other" not in text


def test_the_same_networks_can_be_made_elsewhere() -> None:
    settings = replace(Settings(), vxlan_port=4789, etcd=("https://10.0.0.1:2379",),
                       etcd_user="me", underlay="eth1")
    text = reproduction(settings, _look(Client()), 3)
    lines = text.splitlines()
    assert "# Hosts in the cluster: 3." in lines
    assert [line for line in lines if line.startswith("export")] == ["export SLIM_VXLAN_PORT=4789"]
    assert "# 2 containers" in lines
    assert shlex.split(lines[-1]) == [
        "docker", "network", "create", "-d", "slim", "--ipv6", "--ipam-driver", "slim",
        "--subnet", "10.7.0.0/16", "--gateway", "10.7.0.1", "-o", "slim.host_path=off",
        "my app; rm -rf /"]


def test_settings_are_told_as_the_environment_has_them() -> None:
    lines = settings_text(replace(Settings(), metrics=None)).splitlines()
    assert "SLIM_VXLAN_PORT=14789" in lines
    assert "SLIM_METRICS=''" in lines
    assert "SLIM_ETCD=http://127.0.0.1:2379" in lines
