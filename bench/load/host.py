"""Runs a host under load: a namespace with etcd and `slim serve`; containers are namespaces too.

It makes dockerd's calls, and measures the memory and time that driver and kernel need for them.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from bcc import lib

from bench.load.directory import remote
from driver.store.format import keys
from tests.conftest import PROJECT
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.maps import count_entries, opened
from tests.support.world.netns import Netns, join
from tests.support.world.served import Host, create_network

NETWORKS = 4
ETCD = "http://127.0.0.1:2379"
WAIT_S = 300.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
WORKERS = 8  # containers that start at once while the load grows
CALLS = ("RequestAddress", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint", "ReleaseAddress")


@dataclass(frozen=True)
class Network:
    """A slim network on the host."""

    id: str
    cidr: str
    vni: int

    @property
    def subnet(self) -> int:
        """Its network address as a number."""
        return int(IPv4Network(self.cidr).network_address)


@dataclass(frozen=True)
class Box:
    """A container: its namespace, network and endpoint."""

    netns: Netns
    network: Network
    endpoint: str
    address: str  # with prefix length


@dataclass
class Times:
    """How many milliseconds each call took, by the call's name."""

    ms: dict[str, list[float]] = field(default_factory=dict)

    def call(self, name: str, act: Callable[[], Any]) -> Any:
        """Make the call, and note how long it took."""
        begin = time.perf_counter()
        result = act()
        self.ms.setdefault(name, []).append((time.perf_counter() - begin) * 1000)
        return result


class LoadedHost:
    """Context manager; at its end it removes everything, whatever state that is in."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.boxes: list[Box] = []
        self.networks: list[Network] = []
        self.filled = 0  # endpoints of other hosts
        self._probe = 0

    def __enter__(self) -> LoadedHost:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        netns._sweep()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        namespace = self._stack.enter_context(netns.made("load"))
        wire = self._stack.enter_context(netns.made("wire"))
        join(namespace, "eth0", wire, "peer")
        namespace.ip("addr add 198.18.7.1/16 dev eth0")
        self.host = Host(namespace, folder, ETCD, ("--docker-socket", ""))
        self.host.cgroup.mkdir()
        self._stack.callback(self.host.close)
        self.host.pins.mkdir()
        self.host.start_driver()
        self.host.start_etcd()
        wait_until(lambda: self.host.status()["etcd"].startswith("answers, 1 "), WAIT_S,
                   "the host is registered")
        for number in range(NETWORKS):
            network, cidr = f"{number:064x}", f"10.{50 + number}.0.0/16"
            create_network(self.host, network, cidr)
            self.networks.append(Network(network, cidr, self._vni(cidr)))
        self._writer = subprocess.Popen(
            namespace.command(sys.executable, "-m", "bench.load.directory", ETCD), cwd=PROJECT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.callback(self._end_writer)

    def _vni(self, cidr: str) -> int:
        key = next(k for k in self.host.stored_keys() if k.startswith(keys.VNIS) and cidr in
                   self.host.netns.run("env", "ETCDCTL_API=3", "etcdctl", "get", k,
                                       "--print-value-only").stdout)
        return keys.vni_of(key)

    def _end_writer(self) -> None:
        self._writer.kill()
        self._writer.communicate()

    # Endpoints of this host.

    def grow(self, count: int) -> None:
        """Start containers until there are `count`, several at once."""
        missing = count - len(self.boxes)
        spaces = self._namespaces(missing)
        with ThreadPoolExecutor(WORKERS) as pool:
            self.boxes += pool.map(lambda at: self.start(at[1], at[0], Times()),
                                   enumerate(spaces))
        self.wait_finished()

    def _namespaces(self, count: int) -> list[Netns]:
        made = [Netns(f"{netns.PREFIX}box{number}-{os.getpid()}-{secrets.token_hex(3)}")
                for number in range(count)]
        self._stack.callback(_batch, [f"netns del {space.name}" for space in made])
        _batch([f"netns add {space.name}" for space in made])
        return made

    def start(self, space: Netns, number: int, times: Times) -> Box:
        """Do all that dockerd does for a container, until its interface is up."""
        network, endpoint = self.networks[number % NETWORKS], secrets.token_hex(32)
        call = self.host.dockerd.ok
        address: str = times.call("RequestAddress", lambda: call(
            "IpamDriver.RequestAddress", PoolID=f"slim-local/{network.cidr}", Address="",
            Options=None))["Address"]
        made = times.call("CreateEndpoint", lambda: call(
            "NetworkDriver.CreateEndpoint", NetworkID=network.id, EndpointID=endpoint,
            Options={}, Interface={"Address": address, "AddressIPv6": "", "MacAddress": ""}))
        joined = times.call("Join", lambda: call(
            "NetworkDriver.Join", NetworkID=network.id, EndpointID=endpoint,
            SandboxKey=space.path, Options={}))
        name, mac = joined["InterfaceName"]["SrcName"], made["Interface"]["MacAddress"]
        self.host.netns.ip(f"link set {name} netns {space.name}")
        _batch([f"link set {name} name eth0 address {mac}", f"addr add {address} dev eth0",
                "link set eth0 up"], space)
        return Box(space, network, endpoint, address)

    def remove(self, box: Box, times: Times) -> None:
        """Do all that dockerd does for `docker rm`."""
        call = self.host.dockerd.ok
        for method in ("Leave", "DeleteEndpoint"):
            times.call(method, lambda m=method: call(  # type: ignore[misc]
                f"NetworkDriver.{m}", NetworkID=box.network.id, EndpointID=box.endpoint))
        times.call("ReleaseAddress", lambda: call(
            "IpamDriver.ReleaseAddress", PoolID=f"slim-local/{box.network.cidr}",
            Address=box.address.partition("/")[0]))

    def finished(self) -> int:
        """Return how many sandboxes this process of the driver has finished."""
        return int(self.host.status()["sandboxes"].split()[0])

    def wait_finished(self) -> None:
        """Wait until every container has its host path."""
        wait_until(lambda: self._entries("sandboxes") == len(self.boxes), WAIT_S,
                   "all sandboxes are finished")

    def cycles(self, count: int) -> tuple[Times, float, list[float]]:
        """Start and remove a container `count` times.

        Returns the calls' times, the driver's CPU milliseconds per cycle, and the milliseconds
        from carrier to finished sandbox.
        """
        times, (space,) = Times(), self._namespaces(1)
        log_end, cpu = (self.host.folder / "driver.log").stat().st_size, self.cpu_s()
        for number in range(count):
            before = self.finished()
            box = self.start(space, number, times)
            wait_until(lambda b=before: self.finished() > b, WAIT_S,  # type: ignore[misc]
                       "the sandbox is finished", 0.005)
            self.remove(box, times)
            wait_until(lambda: "eth0" not in space.ip("-br link"), WAIT_S, "the link is gone")
        cpu = (self.cpu_s() - cpu) * 1000 / count
        with (self.host.folder / "driver.log").open() as log:
            log.seek(log_end)
            late = [float(ms) for ms in re.findall(r"finished (\S+) ms after carrier", log.read())]
        return times, cpu, late

    # Endpoints of other hosts.

    def fill(self, count: int) -> float:
        """Write to etcd until there are `count`; return seconds from the last write to the maps."""
        each = count // NETWORKS
        begin_s = 0.0
        for network in self.networks:
            begin_s = self._write(f"fill {network.vni} {network.subnet} {self.filled // NETWORKS} "
                                  f"{each - 1}")
        self.filled = each * NETWORKS
        self.wait_directory()
        return time.monotonic() - begin_s

    def change_ms(self) -> float:
        """Return the milliseconds from the beginning of one write to etcd until the map has it."""
        network, self._probe = self.networks[0], self._probe + 1
        endpoint = remote(network.vni, network.subnet, 40000 + self._probe)
        assert endpoint.address is not None
        key = network.vni.to_bytes(4, sys.byteorder) + endpoint.address.packed
        self._send(f"put {network.vni} {network.subnet} {40000 + self._probe}")
        with self._map("directory") as fd:
            value = ctypes.create_string_buffer(64)
            while lib.bpf_lookup_elem(fd, key, value) != 0:
                time.sleep(0.0002)
            seen_s = time.monotonic()
        return (seen_s - float(self._answer())) * 1000

    def wait_directory(self) -> None:
        """Wait until the driver has entered all endpoints in the map."""
        wanted = self.filled + len(self.boxes) + self._probe
        wait_until(lambda: int(self.host.status()["directory"].split()[0]) == wanted, WAIT_S,
                   f"{wanted} endpoints in the directory")

    def _write(self, command: str) -> float:
        self._send(command)
        return float(self._answer())

    def _send(self, command: str) -> None:
        assert self._writer.stdin is not None
        print(command, file=self._writer.stdin, flush=True)

    def _answer(self) -> str:
        assert self._writer.stdout is not None
        return str(self._writer.stdout.readline())

    # The driver and the kernel.

    def restart(self) -> tuple[float, float, float]:
        """Stop and start the driver.

        Returns the seconds until it answers, until it has reconciled, and until it has taken over
        all sandboxes and read the directory.
        """
        self.host.end_driver(15)
        begin = time.monotonic()
        self.host.start_driver()
        answers_s = time.monotonic() - begin
        wait_until(lambda: self.host.status()["recovery"] == "done", WAIT_S, "reconciled")
        recovered_s = time.monotonic() - begin
        wait_until(lambda: self.finished() >= len(self.boxes), WAIT_S, "sandboxes taken over")
        self.wait_directory()
        return answers_s, recovered_s, time.monotonic() - begin

    @property
    def _pid(self) -> int:
        # nsenter executes the driver: its process id is the driver's.
        assert self.host.driver is not None
        return self.host.driver.pid

    def memory_mb(self) -> tuple[float, float]:
        """Return the driver's resident memory now, and its peak since the last call."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        now, peak = (int(status.split(name)[1].split()[0]) / 1024 for name in ("VmRSS:", "VmHWM:"))
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        return now, peak

    def cpu_s(self) -> float:
        """Return the driver's CPU time so far."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def maps_kb(self) -> dict[str, int]:
        """Return the kernel memory of each pinned map, from bpftool."""
        found = {}
        for pin in sorted(self._pins().iterdir()):
            if pin.is_file():
                shown = subprocess.run(["bpftool", "map", "show", "pinned", str(pin)],
                                       check=False, capture_output=True, text=True).stdout
                if memory := re.search(r"memlock (\d+)B", shown):  # else it is a bpf_link's
                    found[pin.name] = int(memory[1]) // 1024
        return found

    def _pins(self) -> Path:
        return next(self.host.pins.rglob("directory")).parent

    def _map(self, name: str) -> AbstractContextManager[int]:
        return opened(self._pins() / name)

    def _entries(self, name: str) -> int:
        with self._map(name) as fd:
            return count_entries(fd)


def _batch(commands: Sequence[str], space: Netns | None = None) -> None:
    where = ["-n", space.name] if space else []
    done = subprocess.run(["ip", *where, "-force", "-batch", "-"], check=False, text=True,
                          capture_output=True, input="\n".join(commands) + "\n", timeout=600)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(where)}: {done.stderr[:500]}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """Return the median, 0 if there are no values."""
    return statistics.median(values) if values else 0.0
