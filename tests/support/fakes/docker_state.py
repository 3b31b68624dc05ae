"""Holds what a test's dockerd knows, as its API shows it: networks, containers, services.

The test keeps it up to date; docker_api.py serves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from driver.model import SWARM_ID_LENGTH

NO_MANAGER = "This node is not a swarm manager."
SWARM = "swarm0123456789abcdefghij"


@dataclass
class DockerNetwork:
    """A slim network whose addresses slim assigns."""

    id: str
    pool: str  # CIDR
    gateway: str
    containers: dict[str, str] = field(default_factory=dict)  # endpoint id -> address/length

    @property
    def of_swarm(self) -> bool:
        return len(self.id) == SWARM_ID_LENGTH

    def shown(self) -> dict[str, object]:
        """Show it as its node does."""
        return {**self.listed(), "Containers": {
            f"c{endpoint}": {"EndpointID": endpoint, "IPv4Address": address}
            for endpoint, address in self.containers.items()}}

    def listed(self) -> dict[str, object]:
        """Show it as a swarm's managers do: without containers."""
        return {"Id": self.id, "Name": self.id[:12], "Driver": "slim",
                "Scope": "swarm" if self.of_swarm else "local", "IPAM": {
            "Driver": "slim", "Config": [{"Subnet": self.pool, "Gateway": self.gateway}]}}


@dataclass
class DockerState:
    """Everything; `answer` is for docker_api.serving."""

    networks: dict[str, DockerNetwork] = field(default_factory=dict)
    manager: bool = False
    # Name -> (network id, its address with prefix length, addresses of its tasks).
    services: dict[str, tuple[str, str, list[str]]] = field(default_factory=dict)

    def answer(self, url: str) -> tuple[int, object]:
        path = url.partition("?")[0]
        what = path if path == "/version" else path.split("/", 2)[2]
        if what == "/version":
            return 200, {"ApiVersion": "1.41"}
        if what.startswith("networks/"):
            network = self.networks.get(what.removeprefix("networks/"))
            return (200, network.shown()) if network else (404, {"message": "no such network"})
        if what == "networks":
            return 200, [network.listed() if self.manager and network.of_swarm
                         else network.shown() for network in self.networks.values()]
        if what == "containers/json":
            return 200, []
        if not self.manager:
            return 503, {"message": NO_MANAGER}
        shown = {"swarm": {"ID": SWARM}, "plugins": [
            {"Name": "slim", "Config": {"Interface": {"Socket": "slim.sock"}}}],
            "services": self._services(), "tasks": self._tasks()}.get(what)
        return (200, shown) if shown is not None else (404, {"message": "page not found"})

    def _services(self) -> list[object]:
        return [{"ID": name, "Spec": {"Name": name}, "Endpoint": {"VirtualIPs": [
            {"NetworkID": network, "Addr": address}]}}
            for name, (network, address, _) in self.services.items()]

    def _tasks(self) -> list[object]:
        return [{"ServiceID": name, "Status": {"State": "running"}, "NetworksAttachments": [
            {"Network": {"ID": network}, "Addresses": [task]}]}
            for name, (network, _, tasks) in self.services.items() for task in tasks]
