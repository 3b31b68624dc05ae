"""Makes the way out beside slim, as Docker does (a bridge, masquerading), and the guard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from driver.client_ports import client_ports
from driver.link.underlay.guard import Guarded, KernelGuard
from driver.link.underlay.port_settings import ephemeral_ports
from tests.support.world import netns
from tests.support.world.machines import VXLAN_PORT, Machine
from tests.support.world.netns import Netns


@dataclass(frozen=True)
class Bridge:
    """A Docker network of the driver `bridge`: 172.<number>.0.0/16."""

    host: Netns
    name: str
    number: int

    @property
    def subnet(self) -> str:
        return f"172.{self.number}.0.0/16"

    @property
    def gateway(self) -> str:
        return f"172.{self.number}.0.1"

    def join(self, member: Netns, last: int, interface: str = "eth0") -> str:
        """Give a namespace an interface and the default route; return its address."""
        address = f"172.{self.number}.0.{last}"
        port = f"{self.name}p{last}"
        netns.join(self.host, port, member, interface)
        self.host.ip(f"link set {port} master {self.name}")
        member.ip(f"addr add {address}/16 dev {interface}")
        member.ip(f"route add default via {self.gateway}")
        return address

    @contextmanager
    def masqueraded(self, *options: str, tool: str = "iptables", to: str = "0.0.0.0/0"
                    ) -> Iterator[None]:
        """Masquerade it by Docker's rule during the block.  options: more options of the target."""
        rule = ["POSTROUTING", "-s", self.subnet, "-d", to, "!", "-o", self.name,
                *(["-p", "tcp"] if options else []), "-j", "MASQUERADE", *options]
        self.host.run(tool, "-w", "-t", "nat", "-A", *rule)
        try:
            yield
        finally:
            self.host.run(tool, "-w", "-t", "nat", "-D", *rule)


@contextmanager
def bridge(host: Netns, name: str = "gw0", number: int = 28) -> Iterator[Bridge]:
    """Make a bridge on a host that forwards."""
    made = Bridge(host, name, number)
    host.ip(f"link add {name} type bridge")
    try:
        host.ip(f"addr add {made.gateway}/16 dev {name}")
        host.ip(f"link set {name} up")
        yield made
    finally:
        host.ip(f"link del {name}")


def kernel_guard(machine: Machine) -> KernelGuard:
    """Return the machine's guard, as its driver makes it."""
    ports = machine.cluster.ports
    clients = client_ports(ports, machine.netns.call(ephemeral_ports), ())
    return KernelGuard(Guarded(machine.underlay, machine.netns.ifindex("eth0"), VXLAN_PORT, ports,
                               clients.widest()))
