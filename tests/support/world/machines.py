"""Two or more hosts on one machine for datapath tests: namespaces, cgroups, real programs.

A machine is a network namespace with an underlay address, a cgroup of its own, maps pinned
in a folder of its own and the programs loaded for it.  Containers are namespaces, wired as
dockerd would do it and with its rules.  No dockerd, no etcd: endpoints are entered into the maps
directly.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import pytest

from driver.client_ports import Ports, client_ports
from driver.datapath.attachments import Attachments, attach_to_netkit
from driver.datapath.build.cache import compiled_unit
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.datapath import EbpfDatapath
from driver.datapath.loading import bpf
from driver.datapath.loading.load import Constants, Loaded, load
from driver.link.netlink import filters
from driver.link.netlink.names import HOST_PATH_MARK
from driver.link.pairs.veth import Veths
from driver.link.sandbox.lost_sockets import lost_sockets
from driver.link.sandbox.sandbox import KernelSandboxes
from driver.link.underlay.port_settings import ephemeral_ports
from driver.link.underlay.vxlan import create_vxlan, overlay_mtu
from driver.model import Endpoint, EndpointId, HostAddress, HostId, NetworkId, Vni
from driver.services.ports import Attachment, SandboxEntry, Veth
from driver.services.sandboxes.publishing import publish
from tests.support.fakes import dockerd
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.maps import count_used
from tests.support.world.netns import Netns
from tests.support.world.settings import put_back

PORT_FIRST, PORT_LAST = 61000, 65535
VXLAN_PORT = 14789
FIRST_SUBNET = 77  # of 198.18.0.0/16, /24 each; with IPv6 of fd00:198:18::/48, /64 each
MTU = 1500


def cgroup2_mount() -> Path:
    """Where cgroup2 is mounted: alone, or beside the v1 controllers."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    pytest.skip("no cgroup2 mount")


def mount_bpffs() -> Path:
    """Return the bpf file system, mounted if it is not."""
    path = Path("/sys/fs/bpf")
    if not os.path.ismount(path):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    return path


class _FiltersIn:
    """tc filters in one namespace."""

    def __init__(self, namespace: Netns) -> None:
        self._namespace = namespace

    def attach(self, ifindex: int, program_fd: int, name: str) -> None:
        filters.attach_ingress(ifindex, program_fd, name, netns=self._namespace.path)

    def detach(self, ifindex: int) -> None:
        filters.detach_ingress(ifindex, netns=self._namespace.path)


@dataclass
class Container:
    """A namespace with one or more endpoints, and the cgroup of its machine."""

    netns: Netns
    machine: Machine
    endpoints: list[tuple[Endpoint, Veth]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The first endpoint's virtual address."""
        interface = self.endpoints[0][0].address
        assert interface is not None
        return str(interface.ip)

    @property
    def address6(self) -> str:
        """The first endpoint's virtual IPv6 address."""
        interface = self.endpoints[0][0].address6
        assert interface is not None
        return str(interface.ip)

    def command(self, *command: str) -> list[str]:
        """Words that run `command` inside, in the machine's cgroup."""
        join = f'echo $$ > {self.machine.cgroup}/cgroup.procs && exec "$@"'
        return ["sh", "-c", join, "sh", *self.netns.command(*command)]

    def run(self, *command: str, check: bool = True, timeout: float = 60
            ) -> subprocess.CompletedProcess[str]:
        """Run to the end; output captured."""
        done = subprocess.run(self.command(*command), check=False, capture_output=True, text=True,
                              timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"{command[:3]} failed ({done.returncode}): "
                                 f"{done.stdout}{done.stderr}")
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start; ended with the machine at the latest."""
        process = subprocess.Popen(self.command(*command), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, stdin=subprocess.PIPE, text=True)
        self.machine.stack.callback(_end, process)
        return process

    def python(self, code: str, *arguments: object, timeout: float = 60) -> str:
        """Run Python code inside; return what it printed."""
        done = self.run(sys.executable, "-S", "-E", "-c", textwrap.dedent(code),
                        *map(str, arguments), timeout=timeout)
        return done.stdout.strip()

    def start_python(self, code: str, *arguments: object) -> subprocess.Popen[str]:
        """Start Python code inside."""
        return self.start(sys.executable, "-u", "-S", "-E", "-c", textwrap.dedent(code),
                          *map(str, arguments))


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


@dataclass
class Machine:
    """One host."""

    netns: Netns
    underlay: HostAddress
    cgroup: Path
    pins: Path
    loaded: Loaded
    datapath: EbpfDatapath
    sandboxes: KernelSandboxes
    stack: ExitStack
    cluster: Cluster
    containers: list[Container] = field(default_factory=list)
    next_port: int = PORT_FIRST
    links: Veths = field(default_factory=Veths)

    @property
    def underlay4(self) -> IPv4Address | None:
        """The underlay's address; None: it is IPv6, and there is no host path."""
        return self.underlay if isinstance(self.underlay, IPv4Address) else None

    def container(self, *addresses: str, vni: int = 1, host_path: bool = True,
                  address6: str | None = None) -> Container:
        """Make a container with one endpoint per address, in network `vni`, vni + 1, …

        address6: of the first one.
        """
        made = Container(self.stack.enter_context(dockerd.sandbox()), self)
        self.containers.append(made)
        for index, address in enumerate(addresses):
            self.connect(made, address, vni=vni + index, host_path=host_path,
                         address6=None if index else address6)
        return made

    def connect(self, container: Container, address: str, *, vni: int = 1,
                address6: str | None = None, host_path: bool = True,
                takes_ipv6: bool = True) -> Endpoint:
        """Give a container an endpoint, in dockerd's order of doing things.

        takes_ipv6: False, as a driver from before IPv6 on the host path would say.
        """
        endpoint = Endpoint(
            id=EndpointId(secrets.token_hex(32)), network_id=NetworkId(f"n{vni}"), vni=Vni(vni),
            host=HostId(self.netns.name), underlay=self.underlay,
            mac=b"\x02" + secrets.token_bytes(5), address=IPv4Interface(address),
            address6=IPv6Interface(address6) if address6 else None,
            takes_ipv6=address6 is not None and takes_ipv6,
            port=self.next_port if self.underlay4 or address6 else 0,
            sandbox_key=container.netns.path)
        self.next_port += 1
        veth = self.netns.call(lambda: self.links.create_veth(endpoint.id, endpoint.mac, MTU))
        self.datapath.publish_endpoint(endpoint, veth)
        taken = {name for _, name in container.netns.call(socket.if_nameindex)}
        name = next(name for name in map("eth{}".format, range(99)) if name not in taken)
        self.netns.ip(f"link set {veth.container_name} netns {container.netns.name}")
        container.netns.ip(f"link set {veth.container_name} name {name}")
        container.netns.ip(f"addr add {address} dev {name}")
        if address6:
            container.netns.ip(f"addr add {address6} dev {name} nodad")
        container.netns.ip(f"link set {name} up")
        container.endpoints.append((endpoint, veth))
        if host_path:
            self.finish(container)
        self.cluster.announce(endpoint)
        return endpoint

    def finish(self, container: Container) -> None:
        """What the driver does when the container's end has come up."""
        key = container.netns.path
        for index, (endpoint, veth) in enumerate(container.endpoints):
            self.sandboxes.set_up(
                key, endpoint, veth, primary=index == 0,
                underlay=self.underlay if container.endpoints[0][0].port else None,
                overlay_mtu=overlay_mtu(MTU, over_ipv6=self.underlay4 is None))
        attachments = tuple(
            Attachment(e.vni, e.address, e.port, v.host_ifindex,
                       e.address6 if e.takes_ipv6 else None)
            for e, v in container.endpoints if e.address is not None)
        entry = SandboxEntry(container.netns.cookie, container.endpoints[0][1].host_ifindex,
                             attachments)
        publish(self.sandboxes, self.datapath, entry, key)

    def disconnect(self, container: Container, endpoint: Endpoint) -> None:
        """Take an endpoint away again."""
        index = next(i for i, (e, _) in enumerate(container.endpoints) if e.id == endpoint.id)
        _, veth = container.endpoints.pop(index)
        if container.endpoints:
            self.finish(container)
        else:
            self.datapath.withdraw_sandbox(container.netns.cookie)
        self.cluster.withdraw(endpoint)
        self.datapath.withdraw_endpoint(endpoint, veth.host_ifindex)
        self.netns.call(lambda: Veths().delete_veth(endpoint.id))

    def clear(self) -> None:
        """Take all endpoints away, as when every container stops."""
        for container in self.containers:
            for endpoint, _ in list(container.endpoints):
                self.disconnect(container, endpoint)
        self.containers.clear()

    def forget_ways(self) -> None:
        """Have the routes to other hosts looked up at once, by new connections at least."""
        self.loaded.table("next_hops").clear()

    def left_over(self) -> dict[str, int]:
        """Entries and links that a removed endpoint must not leave; empty if all is well."""
        self.datapath.sweep_flows()
        backends = self.loaded.table("backends")

        def swept() -> bool:
            self.datapath.sweep_vips()
            return not len(backends)

        with suppress(AssertionError):  # whoever asks says what is left
            wait_until(swept, 5, "lists that nothing names any more are removed")
        names = ("sandboxes", "sandboxes6", "veths", "endpoints", "endpoints6", "directory",
                 "directory6", "reverse", "addresses6", "floods", "flows", "services", "backends",
                 "withheld")
        left = {name: len(self.loaded.table(name)) for name in names}
        left["ports"] = count_used(self.loaded.table("ports"))
        left["links"] = len(list((self.pins / "links").glob("netns-*")))
        left["veth pairs"] = len(self.netns.call(lambda: Veths().list_veths()))
        return {name: count for name, count in left.items() if count}

    def counters(self) -> dict[str, int]:
        return self.datapath.counters()

    @contextmanager
    def counting(self) -> Iterator[dict[str, int]]:
        """Yield a dict that holds, after the block, what each counter grew by (non-zero ones)."""
        before = self.counters()
        grown: dict[str, int] = {}
        yield grown
        grown.update({name: value - before[name] for name, value in self.counters().items()
                      if value != before[name]})

    def flows(self) -> list[object]:
        return list(bpf.entries(self.loaded.table("flows")))


class Cluster:
    """Machines on one wire, and the directory that etcd would keep."""

    def __init__(self, stack: ExitStack, ports: Ports = (PORT_FIRST, PORT_LAST), *,
                 over_ipv6: bool = False) -> None:
        """`ports`: endpoint ports of every machine.  over_ipv6: the underlay has IPv6 only."""
        self.stack = stack
        self.over_ipv6 = over_ipv6
        self.ports = ports
        self.wire = stack.enter_context(netns.made("wire"))
        self.machines: list[Machine] = []
        self.endpoints: list[Endpoint] = []

    def _bridge(self, subnet: int) -> str:
        name = f"br{subnet - FIRST_SUBNET}"
        if name not in self.wire.ip("-br link show type bridge"):
            if subnet != FIRST_SUBNET:
                self.wire.sysctl("ipv6.conf.all.forwarding" if self.over_ipv6
                                 else "ipv4.ip_forward", 1)
            self.wire.ip(f"link add {name} type bridge")
            self.wire.ip(f"addr add {self._address(subnet, 254)}{self._prefix} dev {name} "
                         f"{self._at_once}")
            self.wire.ip(f"link set {name} up")
        return name

    def _address(self, subnet: int, number: int) -> HostAddress:
        if self.over_ipv6:
            return IPv6Address(f"fd00:198:18:{subnet}::{number}")
        return IPv4Address(f"198.18.{subnet}.{number}")

    @property
    def _prefix(self) -> str:
        return "/64" if self.over_ipv6 else "/24"

    @property
    def _at_once(self) -> str:
        return "nodad" if self.over_ipv6 else ""

    def add_machine(self, subnet: int = FIRST_SUBNET, *,
                    kernel_folder: Path = KERNEL_FOLDER, direct: bool = True,
                    assigns_groups: bool | None = None) -> Machine:
        """Make one; between machines of different subnets the wire is a gateway.

        assigns_groups: False, as before Linux 6.6; None: as this kernel does.
        """
        number = len(self.machines) + 1
        namespace = self.stack.enter_context(netns.made(f"h{number}"))
        address = self._address(subnet, number)
        netns.join(self.wire, f"p{number}", namespace, "eth0")
        self.wire.ip(f"link set p{number} master {self._bridge(subnet)}")
        namespace.ip(f"addr add {address}{self._prefix} dev eth0 {self._at_once}")
        namespace.ip(f"route add default via {self._address(subnet, 254)}")
        namespace.sysctl("ipv4.ip_forward", 1)  # as dockerd does; bpf_fib_lookup asks for it
        namespace.sysctl("ipv4.conf.all.rp_filter", 1)
        namespace.sysctl("ipv4.conf.eth0.rp_filter", 1)
        vxlan = namespace.call(lambda: create_vxlan(
            VXLAN_PORT, overlay_mtu(MTU, over_ipv6=self.over_ipv6)))
        uplink = namespace.ifindex("eth0")

        cgroup = cgroup2_mount() / f"{namespace.name}"
        cgroup.mkdir()
        self.stack.callback(_remove_cgroup, cgroup)
        pins = mount_bpffs() / namespace.name
        self.stack.callback(shutil.rmtree, pins)
        clients = client_ports(self.ports, namespace.call(ephemeral_ports), ())
        constants = Constants(
            address, uplink, vxlan, HOST_PATH_MARK, *self.ports, namespace.cookie, clients,
            VXLAN_PORT if direct else 0, namespace.call(ephemeral_ports))
        if assigns_groups is not None:
            constants = replace(constants, assigns_groups=assigns_groups)
        loaded = load(compiled_unit(kernel_folder), constants, pins / "v1")
        self.stack.callback(loaded.close)
        attachments = Attachments(
            loaded, pins / "links", cgroup, _FiltersIn(namespace), str,
            attach_direct=lambda fd, ifindex: namespace.call(
                partial(attach_to_netkit, fd, ifindex)))
        self.stack.callback(attachments.detach_host, uplink, vxlan)
        datapath = EbpfDatapath(loaded, attachments, lost_sockets=lambda key, cookie, names: (
            lost_sockets(key, cookie, address.packed, names)))
        sandboxes = KernelSandboxes(ingress_program_fd=loaded.programs["to_container"])
        machine_stack = self.stack.enter_context(ExitStack())
        machine = Machine(namespace, address, cgroup, pins, loaded, datapath, sandboxes,
                          machine_stack, self, next_port=self.ports[0])
        datapath.start(uplink, vxlan)
        self.stack.callback(datapath.stop)
        self.machines.append(machine)
        for endpoint in self.endpoints:
            datapath.put_remote(endpoint)
        return machine

    def announce(self, endpoint: Endpoint) -> None:
        """As etcd's watch would: every host learns of it."""
        self.endpoints.append(endpoint)
        for machine in self.machines:
            machine.datapath.put_remote(endpoint)
        self.flood(endpoint.vni)

    def withdraw(self, endpoint: Endpoint) -> None:
        self.endpoints.remove(endpoint)
        for machine in self.machines:
            machine.datapath.delete_remote(endpoint)
        self.flood(endpoint.vni)

    @contextmanager
    def service(self, address: str, *backends: str, vni: int = 1) -> Iterator[Callable[..., None]]:
        """Let a service's address answer for these, on all machines; yields what changes them."""
        name = Vni(vni), IPv4Address(address)

        def change(*addresses: str) -> None:
            for machine in self.machines:
                machine.datapath.put_vip(*name, [IPv4Address(each) for each in addresses])

        change(*backends)
        try:
            yield change
        finally:
            for machine in self.machines:
                machine.datapath.delete_vip(*name)

    def flood(self, vni: Vni) -> None:
        for machine in self.machines:
            here: Sequence[int] = [veth.host_ifindex for container in machine.containers
                                   for endpoint, veth in container.endpoints
                                   if endpoint.vni == vni]
            there = {e.underlay for e in self.endpoints if e.vni == vni} - {machine.underlay}
            machine.datapath.set_flood(vni, sorted(there), here)


def _remove_cgroup(cgroup: Path) -> None:
    def gone() -> bool:
        with suppress(OSError):
            cgroup.rmdir()
        return not cgroup.exists()

    wait_until(gone, 10, f"{cgroup} to be empty")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One cluster for the whole run, since loading the programs takes a second a machine."""
    netns.require_root()
    with ExitStack() as stack:
        made = Cluster(stack)
        for _ in range(2):
            made.add_machine()
        yield made


@pytest.fixture
def machines(cluster: Cluster) -> Iterator[list[Machine]]:
    """Two hosts on one wire; containers, processes and map entries of the test go with it."""
    with lent(cluster) as found:
        yield found


@contextmanager
def lent(cluster: Cluster) -> Iterator[list[Machine]]:
    """All hosts of a cluster that other tests use, too; nothing is left on them afterwards."""
    with ExitStack() as stack:
        for namespace in (cluster.wire, *(machine.netns for machine in cluster.machines)):
            stack.enter_context(put_back(namespace))
        for machine in cluster.machines:
            machine.stack = stack.enter_context(ExitStack())
        try:
            yield cluster.machines
        finally:
            for machine in cluster.machines:
                machine.clear()
    for machine in cluster.machines:
        left = machine.left_over()
        assert not left, f"{machine.netns.name}: {left}"
