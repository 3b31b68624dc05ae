"""Says how Docker makes each compared network, and whether it works on one host or across hosts.

Pure: it names the commands to run, and runs none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CROSS, LOCAL = "cross", "local"
SCOPES = (CROSS, LOCAL)
HOST, SLIM, OVERLAY, BRIDGE, SLIM_OVERLAY, MACVLAN = (
    "host", "slim", "overlay", "bridge", "slim-overlay", "macvlan")
KNOWN = (HOST, SLIM, OVERLAY, BRIDGE, SLIM_OVERLAY, MACVLAN)
TITLES = {HOST: "host network", SLIM: "slim", OVERLAY: "Docker's overlay (swarm)",
          BRIDGE: "Docker's bridge", SLIM_OVERLAY: "slim's overlay path", MACVLAN: "macvlan"}
PREFIX = "slim-bench"
CLIENT, SERVER = 0, 1  # which of the hosts


@dataclass(frozen=True)
class Settings:
    """Options with which networks are made."""

    slim_driver: str = "slim"
    subnet: str = "10.213.0.0/16"
    macvlan_parent: str = ""
    macvlan_subnet: str = "10.214.0.0/24"
    macvlan_ranges: tuple[str, str] = ("10.214.0.0/25", "10.214.0.128/25")
    mtu: int = 1500  # of the underlay


@dataclass(frozen=True)
class Plan:
    """One network: its name in Docker, and `docker network create …` for each host that needs it.

    `bound`: clients bind to their own address before they connect; see bindfirst.c.
    """

    name: str
    docker_name: str
    scopes: tuple[str, ...] = SCOPES
    create: dict[int, tuple[str, ...]] = field(default_factory=dict)
    bound: bool = False
    on_slim: bool = False


def plan(name: str, settings: Settings) -> Plan:
    """Return the plan for a network; a name that is not ours is a network that exists already."""
    own = f"{PREFIX}-{name}"
    if name == HOST:
        return Plan(name, "host")
    if name in (SLIM, SLIM_OVERLAY):
        # Both are the same network; only the clients differ.  One host has no overlay path.
        create = ("-d", settings.slim_driver, "--ipam-driver", settings.slim_driver, "--subnet",
                  settings.subnet)
        scopes = (CROSS,) if name == SLIM_OVERLAY else SCOPES
        return Plan(name, f"{PREFIX}-{SLIM}", scopes, {CLIENT: create, SERVER: create},
                    bound=name == SLIM_OVERLAY, on_slim=True)
    if name == OVERLAY:
        # Created once, on a manager: the swarm's other nodes learn of it when they need it.
        return Plan(name, own, create={CLIENT: (
            "-d", "overlay", "--attachable", *_mtu(settings.mtu - 50))})
    if name == BRIDGE:
        return Plan(name, own, (LOCAL,), {SERVER: _mtu(settings.mtu)})
    if name == MACVLAN:
        return Plan(name, own, create={side: (
            "-d", "macvlan", "-o", f"parent={settings.macvlan_parent}", "--subnet",
            settings.macvlan_subnet, "--ip-range", settings.macvlan_ranges[side])
            for side in (CLIENT, SERVER)})
    return Plan(name, name)


def _mtu(size: int) -> tuple[str, ...]:
    return ("-o", f"com.docker.network.driver.mtu={size}")
