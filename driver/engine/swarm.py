"""Asks Docker, on a manager, for the swarm's services, tasks and networks.

Never call it while a call of dockerd's is served.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_address, ip_network
from typing import Any

import docker
import requests

from driver.engine.docker import asked
from driver.errors import EngineUnavailable
from driver.model import NetworkId, Vip
from driver.services.ports import SwarmPool, SwarmUses, SwarmView

TIMEOUT_S = 10  # for one answer
PLUGIN_SOCKET = "slim.sock"  # from plugin.json: identifies our plugin, whatever its name
_NO_MANAGER = "This node is not"  # "... a swarm manager", "... part of a swarm"


class DockerSwarm:
    """services.ports.Swarm over dockerd's unix socket.  Its constructor asks nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._client: docker.APIClient | None = None
        self._swarm_id = ""
        self._ours: dict[NetworkId, bool] = {}  # networks seen: are they of this driver?

    def look(self) -> SwarmView | None:
        """See services.ports.Swarm.  Takes two requests, and some more at the first look."""
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
        """Close the connection, and forget what it told."""
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
            Vip(network, IPv4Interface(address).ip, service["Spec"]["Name"],
                    tuple(sorted(backends[service["ID"], network])))
            for service, network, address in addresses),
            changing=any(_state(task) != "running" for task in tasks) or any(
                _is_updating(service) for service, _, _ in addresses))

    def _learn_networks(self, client: docker.APIClient) -> None:
        plugins = _our_names(client)
        for network in client.networks():
            self._ours[NetworkId(network["Id"])] = network["Driver"] in plugins

    def _unavailable(self, error: Exception) -> EngineUnavailable:
        return EngineUnavailable(f"Docker cannot be asked on {self._path}: "
                                 f"{type(error).__name__}: {error}")


class DockerSwarmUsers:
    """services.ports.SwarmUsers over dockerd's unix socket.  Its constructor asks nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ours: dict[str, bool] = {}  # IPAM drivers seen, by name: are they this one?

    def look(self) -> SwarmUses:
        """See services.ports.SwarmUsers.  Takes two requests, and one more for each new name."""
        return asked(self._path, self._look)

    def _look(self, client: docker.APIClient) -> SwarmUses:
        # A network that the managers have released, but this node still has, lists its containers
        # (none); the managers' own answer has no such list.
        networks = [network for network in client.networks()
                    if network["Scope"] == "swarm" and network.get("Containers") is None]
        # While the swarm has no leader, dockerd silently omits networks; the next call then fails.
        services = client.services()
        names = {str((network.get("IPAM") or {}).get("Driver")) for network in networks}
        if not names <= self._ours.keys():
            ours = _our_names(client)
            self._ours = {name: name in ours for name in names}
        pools = tuple(pool for network in networks for pool in _pools(network)
                      if self._ours[str((network.get("IPAM") or {}).get("Driver"))])
        vips = {}
        for service in services:
            for vip in (service.get("Endpoint") or {}).get("VirtualIPs") or ():
                address = _address(vip.get("Addr"))
                for pool in pools:
                    if address is not None and pool.network_id == vip["NetworkID"] and (
                            address in ip_network(pool.subnet)):
                        vips[pool.subnet, address] = str(service["Spec"]["Name"])
        return SwarmUses(pools, vips)


def _our_names(client: docker.APIClient) -> set[str]:
    return {plugin["Name"] for plugin in client.plugins()
            if plugin["Config"]["Interface"].get("Socket") == PLUGIN_SOCKET}


def _pools(network: dict[str, Any]) -> list[SwarmPool]:
    # Spelled as the user spelled it, perhaps with host bits.
    return [SwarmPool(
        NetworkId(network["Id"]), str(network["Name"]),
        str(ip_network(config["Subnet"], strict=False)),
        str(ip_network(config["IPRange"], strict=False)) if config.get("IPRange") else "",
        _address(config.get("Gateway")))
        for config in (network.get("IPAM") or {}).get("Config") or () if config.get("Subnet")]


def _address(text: str | None) -> IPv4Address | IPv6Address | None:
    return ip_address(text.partition("/")[0]) if text else None


def _state(task: dict[str, Any]) -> str:
    return str((task.get("Status") or {}).get("State"))


def _is_updating(service: dict[str, Any]) -> bool:
    return str((service.get("UpdateStatus") or {}).get("State")) in ("updating", "rollback_started")


def _addresses(task: dict[str, Any]) -> list[tuple[NetworkId, IPv4Address]]:
    found = []
    for attachment in task.get("NetworksAttachments") or ():
        for text in attachment.get("Addresses") or ():
            with suppress(ValueError):  # an IPv6 address
                found.append((NetworkId(attachment["Network"]["ID"]), IPv4Interface(text).ip))
    return found
