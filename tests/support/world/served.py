"""Hosts that are namespaces, each with a `slim serve` of its own, and calls like dockerd's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from driver.commands.control_client import ask
from driver.errors import SlimError
from driver.store.format import keys
from tests.conftest import PROJECT
from tests.support.run.wait import wait_until
from tests.support.world.client import Dockerd
from tests.support.world.etcd import live_keys
from tests.support.world.etcd_gateway import EtcdGateway
from tests.support.world.machines import cgroup2_mount, mount_bpffs
from tests.support.world.netns import Netns, join

NET, EP = "8c1f" * 16, "0123456789abcdef" * 4
POOL = "10.50.0.0/16"
UNDERLAY = "198.18.7.1"  # of a host that is alone
START_S = 120  # it compiles its programs first; on a busy machine that takes a while


class Host:
    """A namespace with an underlay, a cgroup, a bpffs folder, and the processes of a driver."""

    def __init__(self, netns: Netns, folder: Path, etcd: str = "http://127.0.0.1:2379",
                 options: tuple[str, ...] = ()) -> None:
        """`options`: more of `slim serve`'s."""
        self.netns = netns
        self.folder = folder
        self.etcd_options = ("--etcd", etcd, *options)  # what other commands need, too
        self.options: tuple[str, ...] = ()  # more of them, from the next start on
        self.underlay = "eth0"
        self.socket = str(folder / "slim.sock")
        self.dockerd = Dockerd(self.socket)
        self.cgroup = cgroup2_mount() / netns.name
        self.pins = mount_bpffs() / netns.name
        self.prefix: tuple[str, ...] = ()  # of the driver's command, as setpriv
        self.driver: subprocess.Popen[bytes] | None = None
        self.etcd: subprocess.Popen[str] | None = None

    def start_driver(self) -> None:
        """Start it and wait until it answers."""
        self.launch_driver()
        wait_until(self.answers, START_S, "the driver answers")

    def launch_driver(self) -> None:
        """Start it."""
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                self.netns.command(
                    *self.prefix, sys.executable, "-m", "driver", "serve",
                    *self.etcd_options, *self.options,
                    "--underlay", self.underlay, "--cgroup", str(self.cgroup),
                    "--bpffs", str(self.pins),
                    "--socket", self.socket, "--state", str(self.folder / "state"),
                    "--config", os.devnull, "--log-level", "debug"),
                cwd=PROJECT, stdout=log, stderr=log)

    def answers(self) -> bool:
        assert self.driver is not None
        assert self.driver.poll() is None, self.log()
        try:
            ask(self.socket, "Slim.Status")
        except SlimError:  # none is there, or it says why it does not start
            return False
        return True

    def running(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    def end_driver(self, number: int) -> int:
        assert self.driver is not None
        self.driver.send_signal(number)
        return self.driver.wait(20)

    def start_etcd(self) -> None:
        if shutil.which("etcd") is None:
            pytest.skip("etcd is missing (Debian package etcd-server)")
        self.etcd = self.netns.start("etcd", "--data-dir", str(self.folder / "etcd"),
                                     "--unsafe-no-fsync", "--log-level", "error")
        wait_until(lambda: self.status()["recovery"] == "done", 30, "the driver reads etcd")

    def stored_keys(self) -> list[str]:
        gateway = EtcdGateway(("http://127.0.0.1:2379",), self.netns.path)
        return live_keys(read.entry for read in gateway.range(keys.ROOT))

    def links(self) -> list[str]:
        return [line for line in self.netns.ip("-br link show").splitlines()
                if line.startswith("sl") and not line.startswith("slim-")]

    def status(self) -> dict[str, str]:
        return ask(self.socket, "Slim.Status")["Status"]  # type: ignore[return-value]

    def counters(self) -> dict[str, int]:
        return ask(self.socket, "Slim.Counters")["Counters"]  # type: ignore[return-value]

    def mapped_files(self) -> str:
        """What the driver's process has loaded, among others libraries."""
        assert self.driver is not None
        return Path(f"/proc/{self.driver.pid}/maps").read_text()

    def log(self) -> str:
        return (self.folder / "driver.log").read_text()

    def close(self) -> None:
        for process in (self.driver, self.etcd):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.communicate()
        shutil.rmtree(self.pins, ignore_errors=True)
        self.cgroup.rmdir()


def create_network(host: Host, network: str = NET, pool: str = POOL, **chosen: str) -> None:
    """Everything dockerd does for `network create`; chosen: `-o slim.<name>=...`."""
    call = host.dockerd.ok
    spaces = host.dockerd.raw("IpamDriver.GetDefaultAddressSpaces", b"").json
    pool_id = call("IpamDriver.RequestPool", AddressSpace=spaces["LocalDefaultAddressSpace"],
                   Pool=pool, SubPool="", Options=None, V6=False)["PoolID"]
    gateway = call("IpamDriver.RequestAddress", PoolID=pool_id, Address="",
                   Options={"RequestAddressType": "com.docker.network.gateway"})["Address"]
    call("NetworkDriver.CreateNetwork", NetworkID=network, Options={
        "com.docker.network.enable_ipv6": False, "com.docker.network.generic": {
            f"slim.{name}": text for name, text in chosen.items()}},
        IPv4Data=[{"AddressSpace": spaces["LocalDefaultAddressSpace"], "Pool": pool,
                   "Gateway": gateway, "AuxAddresses": {}}], IPv6Data=[])


def delete_network(host: Host, network: str = NET, pool: str = POOL, gateway: str = "10.50.0.1"
                   ) -> None:
    """Everything dockerd does for `network rm`."""
    call = host.dockerd.ok
    call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{pool}", Address=gateway)
    call("IpamDriver.ReleasePool", PoolID=f"slim-local/{pool}")
    call("NetworkDriver.DeleteNetwork", NetworkID=network)


def attach(host: Host, sandbox: Netns, *, network: str = NET, endpoint: str = EP,
           pool: str = POOL, container: str = "", address6: str = "", **chosen: str) -> str:
    """Everything dockerd does for `run`; returns the address with its prefix length.

    container: its name, as newer releases of Docker tell it with the request of an address.
    address6: its IPv6 address, from another IPAM, with prefix length.
    chosen: `--driver-opt slim.<name>=...` of the endpoint.
    """
    call = host.dockerd.ok
    address: str = call(
        "IpamDriver.RequestAddress", PoolID=f"slim-local/{pool}", Address="",
        Options={"com.docker.network.endpoint.name": container} if container else None)["Address"]
    mac = call("NetworkDriver.CreateEndpoint", NetworkID=network, EndpointID=endpoint,
               Options={f"slim.{name}": text for name, text in chosen.items()},
               Interface={"Address": address, "AddressIPv6": address6, "MacAddress": ""}
               )["Interface"]["MacAddress"]
    name = call("NetworkDriver.Join", NetworkID=network, EndpointID=endpoint,
                SandboxKey=sandbox.path, Options={})["InterfaceName"]["SrcName"]
    host.netns.ip(f"link set {name} netns {sandbox.name}")
    sandbox.ip(f"link set {name} name eth0 address {mac}")
    sandbox.ip(f"addr add {address} dev eth0")
    if address6:
        sandbox.ip(f"addr add {address6} dev eth0 nodad")
    sandbox.ip("link set eth0 up")
    return address


def detach(host: Host, address: str, *, network: str = NET, endpoint: str = EP, pool: str = POOL
           ) -> None:
    """Everything dockerd does for `rm`."""
    call = host.dockerd.ok
    call("NetworkDriver.Leave", NetworkID=network, EndpointID=endpoint)
    call("NetworkDriver.DeleteEndpoint", NetworkID=network, EndpointID=endpoint)
    call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{pool}",
         Address=address.partition("/")[0])


H = TypeVar("H", bound=Host)


@contextmanager
def one_host(make_netns: Callable[[str], Netns], folder: Path, kind: type[H]) -> Iterator[H]:
    """A host on a cable that ends in another namespace; nothing runs on it yet."""
    netns, wire = make_netns("host"), make_netns("wire")
    join(netns, "eth0", wire, "peer")
    netns.ip(f"addr add {UNDERLAY}/24 dev eth0")
    made = kind(netns, folder)
    made.cgroup.mkdir()
    made.pins.mkdir()
    try:
        yield made
    finally:
        made.close()
