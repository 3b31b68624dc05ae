"""Asks Docker which networks, endpoints, addresses and labels it knows.

Never call it while a call of dockerd's is served: dockerd may be waiting for that call's answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import docker
import requests

from driver.errors import EngineUnavailable
from driver.model import EndpointId, NetworkId
from driver.services.ports import EngineView

T = TypeVar("T")

TIMEOUT_S = 10  # for one answer
_NO_IPAM_OF_OURS = ("default", "null")


class DockerEngine:
    """services.ports.Engine over dockerd's unix socket.  Its constructor asks nothing."""

    def __init__(self, path: str) -> None:
        self._path = path

    def look(self) -> EngineView:
        """See services.ports.Engine.  Takes one request per network."""
        return asked(self._path, lambda client: _view(list(_networks(client))))


class DockerLabels:
    """services.ports.Labels over the same socket: one request, however many containers run."""

    def __init__(self, path: str, label: str) -> None:
        self._path = path
        self._label = label

    def look(self) -> dict[EndpointId, str]:
        """See services.ports.Labels."""
        return asked(self._path, lambda client: {
            EndpointId(network["EndpointID"]): str(container["Labels"][self._label])
            # dockerd shows no endpoints of a starting container before it runs.
            for container in client.containers(filters={"label": self._label})
            for network in ((container.get("NetworkSettings") or {}).get("Networks") or {}).values()
            if network.get("EndpointID")})


def asked(path: str, ask: Callable[[docker.APIClient], T]) -> T:
    """Ask Docker on its socket.  Error: EngineUnavailable."""
    try:
        # One client per look: none stays open to a dockerd that may be long gone.
        client = docker.APIClient(f"unix://{path}", "auto", timeout=TIMEOUT_S)
        try:
            return ask(client)
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, ValueError, KeyError,
            TypeError, AttributeError) as error:
        raise EngineUnavailable(
            f"Docker cannot be asked on {path}: {type(error).__name__}: {error}") from error


def _networks(client: docker.APIClient) -> Iterator[dict[str, Any]]:
    for network in client.networks():
        if network.get("ConfigOnly"):
            continue
        try:
            yield client.inspect_network(network["Id"])
        except docker.errors.NotFound:  # removed meanwhile
            continue


def _view(networks: list[dict[str, Any]]) -> EngineView:
    pools: Counter[tuple[str, str]] = Counter()
    addresses = set()
    for network in networks:
        ipam = network.get("IPAM") or {}
        if ipam.get("Driver") not in _NO_IPAM_OF_OURS:
            # Spelled as the user spelled it, perhaps with host bits.
            pools.update((_cidr(config["Subnet"]), _cidr(config.get("IPRange") or ""))
                         for config in ipam.get("Config") or () if config.get("Subnet"))
        for config in ipam.get("Config") or ():
            addresses |= {_address(text) for text in (
                config.get("Gateway"), *(config.get("AuxiliaryAddresses") or {}).values()) if text}
        for container in (network.get("Containers") or {}).values():
            addresses |= {_address(container[name]) for name in ("IPv4Address", "IPv6Address")
                          if container.get(name)}
    return EngineView(
        networks=frozenset(NetworkId(network["Id"]) for network in networks),
        endpoints=frozenset(EndpointId(container["EndpointID"]) for network in networks
                            for container in (network.get("Containers") or {}).values()),
        pools=dict(pools), addresses=frozenset(addresses))


def _cidr(text: str) -> str:
    return str(ip_network(text, strict=False)) if text else ""


def _address(text: str) -> Any:
    return ip_address(text.partition("/")[0])
