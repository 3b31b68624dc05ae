"""`slim serve` as a process of its own, on a host that is a namespace, with a real etcd."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from driver.control_client import NotRunningError, ask
from tests.conftest import PROJECT
from tests.support.client import Dockerd
from tests.support.machines import cgroup2_mount, mount_bpffs
from tests.support.netns import Netns, join
from tests.support.wait import wait_until

NET, EP = "8c1f" * 16, "0123456789abcdef" * 4
POOL = "10.50.0.0/16"


class Host:
    """A namespace with an underlay, a cgroup, a bpffs folder, and the processes of a driver."""

    def __init__(self, netns: Netns, folder: Path) -> None:
        self.netns = netns
        self.folder = folder
        self.socket = str(folder / "slim.sock")
        self.dockerd = Dockerd(self.socket)
        self.cgroup = cgroup2_mount() / netns.name
        self.pins = mount_bpffs() / netns.name
        self.driver: subprocess.Popen[bytes] | None = None
        self.etcd: subprocess.Popen[str] | None = None

    def start_driver(self) -> None:
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                self.netns.command(
                    sys.executable, "-m", "driver", "serve", "--etcd", "http://127.0.0.1:2379",
                    "--underlay", "eth0", "--cgroup", str(self.cgroup), "--bpffs", str(self.pins),
                    "--socket", self.socket, "--state", str(self.folder / "state"),
                    "--config", os.devnull, "--log-level", "debug"),
                cwd=PROJECT, stdout=log, stderr=log)
        wait_until(self.answers, 30, "the driver answers")

    def answers(self) -> bool:
        assert self.driver is not None
        assert self.driver.poll() is None, self.log()
        try:
            ask(self.socket, "Slim.Status")
        except NotRunningError:
            return False
        return True

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
        output = self.netns.run("env", "ETCDCTL_API=3", "etcdctl", "get", "--prefix",
                                "/slim/", "--keys-only").stdout
        return sorted(line for line in output.splitlines() if line and "/hosts/" not in line)

    def links(self) -> list[str]:
        return [line for line in self.netns.ip("-br link show type veth").splitlines()
                if line.startswith("sl")]

    def status(self) -> dict[str, str]:
        return ask(self.socket, "Slim.Status")["Status"]  # type: ignore[return-value]

    def log(self) -> str:
        return (self.folder / "driver.log").read_text()[-6000:]

    def close(self) -> None:
        for process in (self.driver, self.etcd):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.communicate()
        shutil.rmtree(self.pins, ignore_errors=True)
        self.cgroup.rmdir()


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[Host]:
    netns, wire = make_netns("host"), make_netns("wire")
    join(netns, "eth0", wire, "peer")
    netns.ip("addr add 198.18.7.1/24 dev eth0")
    made = Host(netns, tmp_path)
    made.cgroup.mkdir()
    made.pins.mkdir()
    try:
        yield made
    finally:
        made.close()


def run_container(host: Host, sandbox: Netns) -> str:
    """Everything dockerd does for `network create` and `run`; returns the address."""
    call = host.dockerd.ok
    spaces = host.dockerd.raw("IpamDriver.GetDefaultAddressSpaces", b"").json
    pool = call("IpamDriver.RequestPool", AddressSpace=spaces["LocalDefaultAddressSpace"],
                Pool=POOL, SubPool="", Options=None, V6=False)
    gateway = call("IpamDriver.RequestAddress", PoolID=pool["PoolID"], Address="",
                   Options={"RequestAddressType": "com.docker.network.gateway"})["Address"]
    call("NetworkDriver.CreateNetwork", NetworkID=NET, Options={
        "com.docker.network.enable_ipv6": False, "com.docker.network.generic": {}},
        IPv4Data=[{"AddressSpace": spaces["LocalDefaultAddressSpace"], "Pool": POOL,
                   "Gateway": gateway, "AuxAddresses": {}}], IPv6Data=[])
    address = call("IpamDriver.RequestAddress", PoolID=pool["PoolID"], Address="",
                   Options=None)["Address"]
    mac = call("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=EP, Options={}, Interface={
        "Address": address, "AddressIPv6": "", "MacAddress": ""})["Interface"]["MacAddress"]
    name = call("NetworkDriver.Join", NetworkID=NET, EndpointID=EP, SandboxKey=sandbox.path,
                Options={})["InterfaceName"]["SrcName"]
    host.netns.ip(f"link set {name} netns {sandbox.name}")
    sandbox.ip(f"link set {name} name eth0 address {mac}")
    sandbox.ip(f"addr add {address} dev eth0")
    sandbox.ip("link set eth0 up")
    return address


def remove_container(host: Host, address: str) -> None:
    call = host.dockerd.ok
    call("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
    call("NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
    call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{POOL}",
         Address=address.partition("/")[0])
    call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{POOL}", Address="10.50.0.1")
    call("IpamDriver.ReleasePool", PoolID=f"slim-local/{POOL}")
    call("NetworkDriver.DeleteNetwork", NetworkID=NET)


def finished(host: Host) -> bool:
    return host.status()["sandboxes"].startswith("1 finished")


def test_from_no_etcd_to_an_empty_etcd(host: Host, make_netns: Callable[[str], Netns]) -> None:
    host.start_driver()
    assert stat.S_IMODE(os.stat(host.socket).st_mode) == 0o600
    assert host.dockerd.raw("NetworkDriver.GetCapabilities", b"").json["Scope"] == "local"
    reply = host.dockerd.call("NetworkDriver.CreateNetwork", NetworkID=NET, IPv4Data=[
        {"AddressSpace": "slim-local", "Pool": POOL}])
    assert (reply.status, "etcd" in reply.error) == (200, True), reply

    assert "http://127.0.0.1:2379" in host.status()["etcd"]
    host.start_etcd()
    before = host.stored_keys()
    wait_until(lambda: host.status()["etcd"] == "answers, 1 hosts registered", 10, "registered")
    sandbox = make_netns("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 10, "the sandbox is finished")
    wait_until(lambda: host.status()["directory"] == "1 endpoints", 10, "the directory is fed")
    assert "from 198.18.7.1" in sandbox.ip("rule show")
    assert set(ask(host.socket, "Slim.Counters")["Counters"]) >= {"connected", "accepted"}  # type: ignore[call-overload]
    remove_container(host, address)
    assert host.links() == []
    assert host.stored_keys() == before
    wait_until(lambda: host.status()["directory"] == "0 endpoints", 10, "the directory is empty")
    assert host.end_driver(signal.SIGTERM) == 0, host.log()
    assert not os.path.exists(host.socket)
    assert "Traceback" not in host.log()


def test_killed_and_started_again(host: Host, make_netns: Callable[[str], Netns]) -> None:
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    sandbox = make_netns("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 10, "the sandbox is finished")
    stray = secrets.token_hex(6)[:11]
    host.netns.ip(f"link add sl{stray} type veth peer name sc{stray}")
    assert host.end_driver(signal.SIGKILL) == -signal.SIGKILL
    assert os.path.exists(host.socket)  # nobody could unlink it

    host.start_driver()
    wait_until(lambda: finished(host), 10, "the sandbox is taken over")
    assert [line.split("@")[0] for line in host.links()] == ["sl" + EP[:11]]
    remove_container(host, address)
    assert host.links() == []
    assert host.stored_keys() == before


@pytest.mark.parametrize(("state", "status", "text"), [
    ("state", 2, "another driver runs with it"), ("other", 1, "another process serves ")])
def test_a_second_driver_is_refused(host: Host, state: str, status: int, text: str) -> None:
    host.start_driver()
    second = host.netns.run(
        sys.executable, "-m", "driver", "serve", "--underlay", "eth0", "--cgroup",
        str(host.cgroup), "--bpffs", str(host.pins), "--socket", host.socket, "--state",
        str(host.folder / state), "--config", os.devnull, check=False)
    assert second.returncode == status
    assert text in second.stderr
    assert second.stderr.count("\n") == 1
    assert host.answers()


def test_removed_while_etcd_is_away(host: Host, make_netns: Callable[[str], Netns]) -> None:
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    sandbox = make_netns("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 10, "the sandbox is finished")
    assert host.etcd is not None
    host.etcd.send_signal(signal.SIGSTOP)
    try:
        # dockerd forgets the endpoint whatever it is answered, and asks no second time.
        for method in ("Leave", "DeleteEndpoint"):
            reply = host.dockerd.call(f"NetworkDriver.{method}", NetworkID=NET, EndpointID=EP)
            assert "etcd" in reply.error, reply
        assert host.links() == []
    finally:
        host.etcd.send_signal(signal.SIGCONT)
    wait_until(lambda: not any(EP in key for key in host.stored_keys()), 30,
               "the record to be removed")
    remove_container(host, address)
    assert host.stored_keys() == before
