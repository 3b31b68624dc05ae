"""Describes Docker here as far as slim is concerned, and how to make the same networks elsewhere.

Of a container only its state, networks and restart policy are told: its environment, command,
labels and mounts may hold secrets.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from driver.settings import Settings

DRIVER: Final = "slim"
_ENGINE: Final = ("ServerVersion", "CgroupDriver", "CgroupVersion", "LiveRestoreEnabled",
                  "OperatingSystem", "KernelVersion", "Containers", "ContainersRunning",
                  "Driver", "DefaultRuntime", "SecurityOptions")
# Paths and addresses of this host: of no use on another one.
_NOT_ELSEWHERE: Final = ("etcd_ca", "etcd_cert", "etcd_key", "etcd_user", "etcd_password_file",
                         "etcd", "cluster", "underlay")


def look(settings: Settings) -> dict[str, Any]:
    """Return the engine, slim's networks and their containers.  Error: EngineUnavailable."""
    from driver.engine.docker import asked  # noqa: PLC0415

    if not settings.docker_socket:
        return {"Engine": {}, "Networks": [], "Containers": []}
    return asked(settings.docker_socket, _look)


def _look(client: Any) -> dict[str, Any]:
    info = client.info()
    networks = [client.inspect_network(each["Id"]) for each in client.networks()
                if str(each.get("Driver", "")).split(":")[0].rpartition("/")[2] == DRIVER]
    ids = {each["Id"] for each in networks}
    return {
        "Engine": {**{name: info.get(name) for name in _ENGINE},
                   "ApiVersion": client.version().get("ApiVersion"),
                   "Swarm": (info.get("Swarm") or {}).get("LocalNodeState"),
                   "Plugins": (info.get("Plugins") or {}).get("Network")},
        "Networks": [_network(each) for each in networks],
        "Containers": [_container(each) for each in client.containers(all=True)
                       if ids & {network.get("NetworkID") for network in _networks_of(each)}]}


def _network(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found.get(name) for name in (
        "Name", "Id", "Scope", "Driver", "EnableIPv6", "Internal", "Attachable", "Ingress", "IPAM",
        "Options")} | {"Containers": len(found.get("Containers") or {})}


def _networks_of(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(((container.get("NetworkSettings") or {}).get("Networks") or {}).values())


def _container(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"Name": (found.get("Names") or [""])[0].lstrip("/"), "Id": found.get("Id"),
            "State": found.get("State"), "Status": found.get("Status"),
            "Ports": found.get("Ports"),
            "Networks": [{name: each.get(name) for name in (
                "NetworkID", "EndpointID", "IPAddress", "GlobalIPv6Address", "Gateway",
                "MacAddress", "Aliases")} for each in _networks_of(found)]}


def as_json(found: Mapping[str, Any]) -> str:
    """Return it as text."""
    return json.dumps(found, indent=2) + "\n"


def settings_text(settings: Settings) -> str:
    """Return the settings in force, as they would stand in the environment."""
    return "".join(f"SLIM_{name.upper()}={shlex.quote(_spelled(value))}\n"
                   for name, value in _values(settings))


def _values(settings: Settings) -> Iterator[tuple[str, object]]:
    for item in fields(settings):
        yield item.name, getattr(settings, item.name)


def _spelled(value: object) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def reproduction(settings: Settings, found: Mapping[str, Any], hosts: int) -> str:
    """Return shell lines that make the same environment on lab hosts.  hosts: 0: not known."""
    engine = found["Engine"]
    lines = ["# The same environment on lab hosts; nothing here starts by itself.",
             f"# Hosts in the cluster: {hosts or 'not known'}.",
             f"# Docker: {engine.get('ServerVersion', 'not known')}, swarm {engine.get('Swarm')}.",
             "# On each host, before `slim serve` or `make up`: what differs from the defaults."]
    lines += [f"export SLIM_{name.upper()}={shlex.quote(_spelled(value))}"
              for name, value in _values(settings)
              if name not in _NOT_ELSEWHERE and value != getattr(Settings(), name)]
    lines.append("# Networks, and how many containers each has here.")
    for network in found["Networks"]:
        lines += [f"# {network['Containers']} containers", shlex.join(_create(network))]
    return "\n".join(lines) + "\n"


def _create(network: Mapping[str, Any]) -> list[str]:
    words = ["docker", "network", "create", "-d", DRIVER]
    if network.get("Scope") == "swarm":
        words += ["--scope", "swarm"]
    words += [option for option, name in (("--ipv6", "EnableIPv6"), ("--internal", "Internal"),
                                          ("--attachable", "Attachable")) if network.get(name)]
    ipam = network.get("IPAM") or {}
    if ipam.get("Driver") not in (None, "default"):
        words += ["--ipam-driver", str(ipam["Driver"])]
    for config in ipam.get("Config") or ():
        for option, name in (("--subnet", "Subnet"), ("--ip-range", "IPRange"),
                             ("--gateway", "Gateway")):
            if config.get(name):
                words += [option, str(config[name])]
    for name, value in (network.get("Options") or {}).items():
        words += ["-o", f"{name}={value}"]
    return [*words, str(network["Name"])]
