"""Runs two hosts with a driver each on one wire, and three etcd members behind another.

etcd has TLS and a login.  A test can cut it off from one host.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

from driver.model import Endpoint
from driver.store.format import keys, records
from tests.netns import talk
from tests.support.fakes import dockerd
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.certificates import Authority, install
from tests.support.world.client import Reply
from tests.support.world.etcd import EtcdCluster, live
from tests.support.world.machines import Container
from tests.support.world.maps import contents, opened
from tests.support.world.netns import Netns, join, require_root
from tests.support.world.served import (
    NET,
    POOL,
    Host,
    attach,
    create_network,
    delete_network,
    detach,
)

ETCD = "10.99.7.254"
QUOTA_BYTES = 16 << 20
ANSWER_MS = 5000  # the driver answers dockerd within this time, whatever etcd does
LONG_S = 90  # for what takes seconds on an idle machine
FLOW = """
    c = connected(sys.argv[1], 80, timeout_s=20)
    ready()
    for line in sys.stdin:
        print(len(asked(c, line.encode() * 100)), flush=True)
"""
W = TypeVar("W", bound="World")
# A key and a value of the map `directory`, as kernel/include/slim.h has them.
KEY, VALUE = struct.Struct("=I4s"), struct.Struct("=4s2s6s")


@dataclass
class Box:
    """A container with one endpoint."""

    host: Host
    netns: Netns
    endpoint: str
    address: str  # with prefix length

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


class World:
    """See the module; every fault must pass `wait_converged` and `assert_data_path`."""

    network = NET
    underlay = "eth0"  # --underlay of the hosts

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        wire, self._store = (stack.enter_context(netns.made(name)) for name in ("wire", "store"))
        self.wire = wire
        for namespace, address in ((wire, "198.18.7.254"), (self._store, ETCD)):
            namespace.ip("link add br0 type bridge")
            namespace.ip(f"addr add {address}/24 dev br0")
            namespace.ip("link set br0 up")
        self.authority = Authority(folder / "ca")
        self.server_files = self.authority.issue("etcd", [ETCD])
        client = self.authority.issue("client")
        self.cluster = stack.enter_context(EtcdCluster(
            folder, tls=self.server_files, address=ETCD, netns=self._store,
            arguments=("--quota-backend-bytes", str(QUOTA_BYTES), "--bcrypt-cost", "4")))
        self.cluster.guard("slim", "secret", keys.ROOT)
        self.hosts: list[Host] = []
        for number in (1, 2):
            self.hosts.append(self.add_host(stack, number, folder, client))
        for host in self.hosts:
            host.launch_driver()
        for host in self.hosts:
            wait_until(host.answers, LONG_S, "the driver answers")
            wait_until(lambda h=host: h.status()["recovery"] == "done", LONG_S,  # type: ignore[misc]
                       "the driver reads etcd")
            create_network(host)
        self.boxes = [self.attach(host) for host in self.hosts]
        self._serve_and_connect()

    def add_host(self, stack: ExitStack, number: int, folder: Path,
                 files: tuple[str, str, str]) -> Host:
        """Make a host, which goes with `stack`; its driver is not started yet."""
        namespace = stack.enter_context(netns.made(f"h{number}"))
        join(self.wire, f"p{number}", namespace, "eth0")
        join(self._store, f"s{number}", namespace, "eth1")
        self.wire.ip(f"link set p{number} master br0")
        self._store.ip(f"link set s{number} master br0")
        self.address(namespace, number)
        namespace.ip(f"addr add 10.99.7.{number}/24 dev eth1")
        own = folder / f"h{number}"
        own.mkdir()
        mine = [str(own / name) for name in ("ca.pem", "cert.pem", "key.pem")]
        install(files, mine)
        (own / "password").write_text("secret\n")
        host = Host(namespace, own, ",".join(self.cluster.urls), (
            "--etcd-ca", mine[0], "--etcd-cert", mine[1], "--etcd-key", mine[2],
            "--etcd-user", "slim", "--etcd-password-file", str(own / "password"),
            "--docker-socket", ""))
        host.underlay = self.underlay
        host.cgroup.mkdir()
        stack.callback(host.close)
        host.pins.mkdir()
        return host

    def address(self, namespace: Netns, number: int) -> None:
        """Give a host its address in the underlay."""
        namespace.ip(f"addr add 198.18.7.{number}/24 dev eth0")

    def _serve_and_connect(self) -> None:
        first, second = self.boxes
        for box in self.boxes:
            server = self.program(box, 'serve(listen("0.0.0.0", 80))')
            assert server.line() == "ready"
        wait_until(self.converged, LONG_S, "both hosts know both endpoints")
        self._flow = self.program(first, FLOW, second.ip)
        assert self._flow.line() == "ready"

    # Containers.

    def attach(self, host: Host, prepare: Callable[[Netns], object] | None = None,
               **chosen: str) -> Box:
        """Do all that a container needs, until its host path works.

        prepare: called for the namespace before it has a network, instead of making Docker's rules.
        chosen: see served.attach.
        """
        before = finished(host)
        sandbox = self._stack.enter_context(netns.made("box") if prepare
                                            else dockerd.sandbox("box"))
        if prepare:
            prepare(sandbox)
        endpoint = secrets.token_hex(32)
        box = Box(host, sandbox, endpoint, attach(host, sandbox, endpoint=endpoint, **chosen))
        wait_until(lambda: finished(host) > before, LONG_S, "the sandbox is finished")
        return box

    def detach(self, box: Box) -> None:
        detach(box.host, box.address, endpoint=box.endpoint)

    def program(self, box: Box, code: str, *arguments: object) -> talk.Program:
        return talk.start(self.container(box), code, *arguments)

    def container(self, box: Box) -> Container:
        machine = SimpleNamespace(cgroup=box.host.cgroup, stack=self._stack)
        return Container(box.netns, machine)  # type: ignore[arg-type]

    # What must hold during and after each fault.

    def assert_data_path(self) -> None:
        """Assert that the open connection goes on, and new ones on the host path work both ways."""
        self.assert_open_connection()
        self.assert_new_connections()

    def assert_open_connection(self) -> None:
        self._flow.say("x")
        assert self._flow.line() == "200"

    def assert_new_connections(self) -> None:
        """Assert new connections on the host path, both ways, where a driver counts them."""
        for client, server in (self.boxes, self.boxes[::-1]):
            counted = [(host, name) for host, name in (
                (client.host, "connected"), (server.host, "accepted")) if host.running()]
            before = [host.counters()[name] for host, name in counted]
            assert talk.run(self.container(client), """
                print(asked(connected(sys.argv[1], 80, timeout_s=20)).decode())
                """, server.ip) == "hello"
            after = [host.counters()[name] for host, name in counted]
            assert after == [count + 1 for count in before]

    def request(self, host: Host) -> Reply:
        """Make one call that needs etcd; release at once what it gave."""
        reply = host.dockerd.call("IpamDriver.RequestAddress", PoolID=f"slim-local/{POOL}",
                                  Address="", Options=None)
        if not reply.error:
            host.dockerd.call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{POOL}",
                              Address=reply.json["Address"].partition("/")[0])
        return reply

    def assert_refused(self, host: Host, advice: str) -> None:
        """Assert that calls fail in time, and in the end with the right reason and advice."""
        def refused() -> bool:
            error = self.request(host).error
            assert "etcd" in error or "try again" in error, error
            return "etcd" in error and advice in error

        wait_until(refused, LONG_S, f"calls fail with: {advice}")
        # By the driver's own clock, so that other work on this machine does not count.
        took_ms = [float(ms) for ms in re.findall(
            r"IpamDriver\.\w+ .* ([0-9.]+) ms StoreUnavailable", host.log())]
        assert took_ms
        assert max(took_ms) < ANSWER_MS
        assert "Traceback" not in host.log()

    def wait_converged(self) -> None:
        """Wait until calls work, both hosts are registered, and the maps agree with etcd."""
        for host in self.hosts:
            wait_until(lambda h=host: not self.request(h).error, LONG_S, "calls work")  # type: ignore[misc]
        # The driver repeats failed removals every few seconds.
        wait_until(lambda: self.held() == {"10.50.0.1", *(box.ip for box in self.boxes)}, LONG_S,
                   "addresses of what is gone are free")
        wait_until(self.converged, LONG_S, "the maps are what etcd says")
        for host in self.hosts:
            assert "Traceback" not in host.log()
        self.assert_data_path()

    def held(self) -> set[str]:
        return {str(keys.address_of(entry.key))
                for entry in self.cluster.entries(keys.addresses(POOL))}

    def converged(self) -> bool:
        wanted = set()
        for entry in live(self.cluster.entries(keys.ENDPOINTS)):
            endpoint = records.decode(entry, records.endpoint)
            assert endpoint.address is not None
            wanted.add((endpoint.vni, endpoint.address.ip, endpoint.underlay, endpoint.port,
                        endpoint.mac))
        return len(self.cluster.entries(keys.HOSTS)) == 2 and all(
            directory(host) == wanted for host in self.hosts)

    def restart(self, host: Host) -> None:
        """Kill a driver, start it again, and wait until it has read etcd."""
        host.end_driver(signal.SIGKILL)
        host.start_driver()
        wait_until(lambda: host.status()["recovery"] == "done", LONG_S, "the driver reads etcd")

    def offered_port(self, box: Box) -> int:
        """Return the endpoint port that other hosts see."""
        return self.record(box).port

    # Faults.

    def record(self, box: Box) -> Endpoint:
        """What peers are told of a container's endpoint."""
        return next(found for found in (
            records.decode(entry, records.endpoint)
            for entry in live(self.cluster.entries(keys.ENDPOINTS))) if found.id == box.endpoint)

    @contextmanager
    def cut_off(self, number: int) -> Iterator[None]:
        """Cut host `number` off from etcd, but not from the other host."""
        self._store.ip(f"link set s{number} nomaster")
        try:
            yield
        finally:
            self._store.ip(f"link set s{number} master br0")

    def restart_members(self) -> None:
        """Kill all members, and start them with the current files, without waiting."""
        self.cluster.stop()
        for member in self.cluster.members:
            member.launch()

    def new_authority(self, folder: Path) -> tuple[str, str, str]:
        """Give etcd and the test other certificates; return those for the hosts."""
        other = Authority(folder)
        install(other.issue("etcd", [ETCD]), self.server_files)
        return other.issue("client")

    def compact(self) -> None:
        """Drop all of etcd's history."""
        answer = json.loads(self.cluster.etcdctl("get", "x", "--write-out=json").stdout)
        self.cluster.etcdctl("compact", "--physical", str(answer["header"]["revision"]))

    def close(self) -> None:
        for box in self.boxes:
            self.detach(box)
        for host in self.hosts:
            delete_network(host)
        left = [entry.key for prefix in (keys.NETWORKS, keys.VNIS, keys.ENDPOINTS, keys.SUBNETS,
                                         keys.ADDRESSES, keys.OWNERS)
                for entry in live(self.cluster.entries(prefix))]
        assert left == [], left


def finished(host: Host) -> int:
    return int(host.status()["sandboxes"].split()[0])


def directory(host: Host) -> set[tuple[object, ...]]:
    """Return a host's map `directory`: (VNI, address, U, P, MAC)."""
    pin = next(host.pins.rglob("directory"))
    found: set[tuple[object, ...]] = set()
    with opened(pin) as fd:
        for key, value in contents(fd).items():
            vni, address = KEY.unpack(key)
            underlay, port_be, mac = VALUE.unpack(value)
            found.add((vni, IPv4Address(address), IPv4Address(underlay),
                       int.from_bytes(port_be, "big"), mac))
    return found


@contextmanager
def running_world(folder: Path, kind: type[W] = World) -> Iterator[W]:  # type: ignore[assignment]
    """A world for all tests of a module; at the end nothing may be left."""
    require_root()
    with ExitStack() as stack:
        world = kind(stack, folder)
        yield world
        world.close()
