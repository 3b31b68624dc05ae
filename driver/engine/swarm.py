"""Owns asking Docker, on a manager, for the swarm's services and tasks (services.ports.Swarm).

It must not know what becomes of them, and must never be called while a call of dockerd's is served.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import docker
import requests

from driver.errors import EngineUnavailable
from driver.model import NetworkId, Service
from driver.services.ports import SwarmView

TIMEOUT_S = 10  # for one answer
PLUGIN_SOCKET = "slim.sock"  # plugin.json's: tells our plugin apart, whatever it was named
_NO_MANAGER = "This node is not"  # "... a swarm manager", "... part of a swarm"


class DockerSwarm:
    """services.ports.Swarm over dockerd's unix socket.  Made without asking anything."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._client: docker.APIClient | None = None
        self._swarm_id = ""
        self._ours: dict[NetworkId, bool] = {}  # networks seen: are they of this driver?

    def look(self) -> SwarmView | None:
        """See services.ports.Swarm.  Two requests, and some more at the first look."""
        try:
            if self._client is None:
                self._client = docker.APIClient(f"unix://{self._path}", "auto", timeout=TIMEOUT_S)
            return self._view(self._client)
        except docker.errors.APIError as error:
            self.close()
            if _NO_MANAGER in str(error.explanation):
                return None
            raise self._unavailable(error) from error
        except (docker.errors.DockerException, requests.RequestException, ValueError, KeyError,
                TypeError, AttributeError) as error:
            self.close()
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Let go of the connection, and of what was learnt over it."""
        if self._client is not None:
            self._client.close()
        self._client, self._swarm_id = None, ""
        self._ours.clear()

    def _view(self, client: docker.APIClient) -> SwarmView:
        services = client.services()
        if not self._swarm_id:
            self._swarm_id = client.inspect_swarm()["ID"]
        addresses = [(service, NetworkId(vip["NetworkID"]), vip["Addr"]) for service in services
                     for vip in (service.get("Endpoint") or {}).get("VirtualIPs") or ()
                     if vip.get("Addr")]
        if not {network for _, network, _ in addresses} <= self._ours.keys():
            self._learn_networks(client)
        addresses = [each for each in addresses if self._ours.get(each[1])]
        if not addresses:
            return SwarmView(self._swarm_id, (), changing=False)
        tasks = client.tasks(filters={
            "desired-state": "running", "service": sorted({each[0]["ID"] for each in addresses})})
        backends: dict[tuple[str, NetworkId], list[IPv4Address]] = defaultdict(list)
        for task in tasks:
            if _state(task) == "running":
                for network, address in _addresses(task):
                    backends[task["ServiceID"], network].append(address)
        return SwarmView(self._swarm_id, tuple(
            Service(network, IPv4Interface(address).ip, service["Spec"]["Name"],
                    tuple(sorted(backends[service["ID"], network])))
            for service, network, address in addresses),
            changing=any(_state(task) != "running" for task in tasks) or any(
                _is_updating(service) for service, _, _ in addresses))

    def _learn_networks(self, client: docker.APIClient) -> None:
        plugins = {plugin["Name"] for plugin in client.plugins()
                   if plugin["Config"]["Interface"].get("Socket") == PLUGIN_SOCKET}
        for network in client.networks():
            self._ours[NetworkId(network["Id"])] = network["Driver"] in plugins

    def _unavailable(self, error: Exception) -> EngineUnavailable:
        return EngineUnavailable(f"Docker cannot be asked on {self._path}: "
                                 f"{type(error).__name__}: {error}")


def _state(task: dict[str, Any]) -> str:
    return str((task.get("Status") or {}).get("State"))


def _is_updating(service: dict[str, Any]) -> bool:
    return str((service.get("UpdateStatus") or {}).get("State")) in ("updating", "rollback_started")


def _addresses(task: dict[str, Any]) -> list[tuple[NetworkId, IPv4Address]]:
    found = []
    for attachment in task.get("NetworksAttachments") or ():
        for text in attachment.get("Addresses") or ():
            with suppress(ValueError):  # an IPv6 one
                found.append((NetworkId(attachment["Network"]["ID"]), IPv4Interface(text).ip))
    return found
