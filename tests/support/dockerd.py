"""Does with one endpoint's interface what dockerd does, in dockerd's order."""

from __future__ import annotations

from driver.link.veth import Veths
from driver.model import Endpoint
from driver.services.ports import Veth
from tests.support.netns import Netns


def make_veth(host: Netns, endpoint: Endpoint, mtu: int = 1500) -> Veth:
    """Make the endpoint's pair in a namespace that stands for a host."""
    return host.call(lambda: Veths().create_veth(endpoint.id, endpoint.mac, mtu))


def move_in(host: Netns, sandbox: Netns, endpoint: Endpoint, veth: Veth,
            name: str = "eth0") -> None:
    """Move the container's end, down, rename, MAC, addresses, up: the order of all versions."""
    host.ip("link set", veth.container_name, "netns", sandbox.name)
    sandbox.ip("link set", veth.container_name, "down")
    sandbox.ip("link set", veth.container_name, "name", name)
    sandbox.ip("link set", name, "address", endpoint.mac.hex(":"))
    for address in (endpoint.address, endpoint.address6):
        if address is not None:
            sandbox.ip("addr add", str(address), "dev", name)
    sandbox.ip("link set", name, "up")


def move_out(host: Netns, sandbox: Netns, veth: Veth, name: str = "eth0") -> None:
    """Set it down, rename it back, move it to the host: what follows Leave."""
    sandbox.ip("link set", name, "down")
    sandbox.ip("link set", name, "name", veth.container_name)
    sandbox.ip("link set", veth.container_name, "netns", host.name)
