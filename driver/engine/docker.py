"""Owns asking Docker which networks, endpoints and addresses it knows of (services.ports.Engine).

It must not know what slim holds, and must never be called while a call of dockerd's is served:
dockerd may be waiting for that call's answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import docker
import requests

from driver.errors import EngineUnavailable
from driver.model import EndpointId, NetworkId
from driver.services.ports import EngineView

TIMEOUT_S = 10  # for one answer
_NO_IPAM_OF_OURS = ("default", "null")


class DockerEngine:
    """services.ports.Engine over dockerd's unix socket.  Made without asking anything."""

    def __init__(self, path: str) -> None:
        self._path = path

    def look(self) -> EngineView:
        """See services.ports.Engine.  One request for each network."""
        try:
            # A client a look: none is left open to a dockerd that may be long gone.
            client = docker.APIClient(f"unix://{self._path}", "auto", timeout=TIMEOUT_S)
            try:
                return _view(list(_networks(client)))
            finally:
                client.close()
        except (docker.errors.DockerException, requests.RequestException, ValueError, KeyError,
                TypeError, AttributeError) as error:
            raise EngineUnavailable(
                f"Docker cannot be asked on {self._path}: {type(error).__name__}: {error}"
            ) from error


def _networks(client: docker.APIClient) -> Iterator[dict[str, Any]]:
    for network in client.networks():
        if network.get("ConfigOnly"):
            continue
        try:
            yield client.inspect_network(network["Id"])
        except docker.errors.NotFound:  # it was removed meanwhile
            continue


def _view(networks: list[dict[str, Any]]) -> EngineView:
    pools: Counter[tuple[str, str]] = Counter()
    addresses = set()
    for network in networks:
        ipam = network.get("IPAM") or {}
        if ipam.get("Driver") not in _NO_IPAM_OF_OURS:
            # Spelled as its user did: with host bits, perhaps.
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
