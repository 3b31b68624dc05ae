"""Runs two hosts whose containers talk all the time, over an etcd whose data tests spoil.

    host 1: containers a, b; its dockerd is a manager of a swarm with two services
    host 2: container c; and a second network that host 1 lacks
    host 3: known to etcd, switched off long ago

tests/support/faults/spoilt_data.py lists what to spoil; this module checks what must hold
meanwhile and afterwards.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

from driver.model import Absence, EndpointId, HostId, KnownHost, NetworkId, Vni
from driver.model import Host as HostModel
from driver.store.format import keys, records
from tests.netns import talk
from tests.support.fakes import dockerd
from tests.support.fakes.docker_api import serving
from tests.support.fakes.docker_state import SWARM, DockerNetwork, DockerState
from tests.support.faults.history import History
from tests.support.faults.spoilt_data import Changes, Reports, same
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.etcd import EtcdCluster, is_tombstone
from tests.support.world.machines import Container
from tests.support.world.maps import contents, opened
from tests.support.world.netns import Netns, join
from tests.support.world.served import POOL, Host, attach, create_network, delete_network, detach

ETCD = "198.18.7.254"
LONG_S = 90
BEGIN_S = 240  # drivers compile their programs first, two at a time
NET = "ab1cd2ef3gh4ij5kl6mn7op8q"  # a swarm's network: all hosts have the same id
GATEWAY = "10.50.0.1"
OTHER_NET, OTHER_POOL, OTHER_GATEWAY = "9b2f" * 16, "10.51.0.0/16", "10.51.0.1"
SWITCHED_OFF = HostId("0ff0" * 8)
ENOUGH = 5  # new connections of each stream, and exchanges on its open one
# Answers each exchange with its container's name, so that no other container is taken for it.
SERVER = """
    def answer(connection):
        with connection, suppress(OSError):
            while connection.recv(100):
                connection.sendall(sys.argv[1].encode())
    listening = listen("0.0.0.0", 80)
    ready()
    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()
"""
STREAM = """
    import json, time
    address, names = sys.argv[1], sys.argv[2].split(",")
    failures, counts = [], {"made": 0, "rounds": 0}

    def exchange(connection):
        connection.sendall(b"who")
        answer = connection.recv(100).decode()
        if answer not in names:
            raise OSError(f"{answer!r} answered, wanted {names}")

    def rounds(connection):
        try:
            while True:
                exchange(connection)
                counts["rounds"] += 1
                time.sleep(0.05)
        except OSError as error:
            failures.append(f"open connection, after {counts['rounds']} rounds: {error}")

    def anew():
        while True:
            try:
                with connected(address, 80, timeout_s=20) as connection:
                    exchange(connection)
            except OSError as error:
                failures.append(f"new connection {counts['made']}: {error}")
            counts["made"] += 1
            time.sleep(0.05)

    held = connected(address, 80, timeout_s=20)
    for work in (lambda: rounds(held), anew):
        threading.Thread(target=work, daemon=True).start()
    ready()
    for _ in sys.stdin:
        print(json.dumps({**counts, "failures": failures}), flush=True)
"""
# Maps that may lose no entry while a container runs; they are compared by content.
MAPS = ("sandboxes", "veths", "endpoints", "directory", "services")
# Lines of the status that change by themselves, or count since the driver's start.  "hosts" is one:
# a driver that starts takes 10 s to find that a host is gone.
PASSING = {"version", "underlay", "etcd", "sandboxes", "guard", "peers", "hosts"}
SINCE_START = re.compile(r"; \d+ entered again since the start|; etcd did not know this host any "
                         r"more: it had \d+ endpoints")
# Keys that appear when the data is mended, and stay or end by themselves; answers change, too.
MENDING = re.compile(r"/slim/v1/(local/[^/]+/(fence|question)|absent/.*)")
ANSWERS = "/slim/v1/answers/"
QUESTION = re.compile(r"/slim/v1/local/[^/]+/question")  # ends with its lease, after a minute
# Without answers to dockerd.
PROBLEM = re.compile(r"level=(warning|error|critical) (?!logger=driver\.api)")


@dataclass(frozen=True)
class Record:
    """A value in etcd, with its lease (0: none)."""

    value: bytes
    lease: int


@dataclass
class Box:
    """A container with one endpoint in the first network."""

    name: str
    host: SpoiltHost
    netns: Netns
    endpoint: EndpointId
    address: str  # with prefix length

    @property
    def ip(self) -> IPv4Address:
        return IPv4Address(self.address.partition("/")[0])


class SpoiltHost(Host):
    """A host whose dockerd the test plays, and what it shows of itself."""

    docker: DockerState
    name: str

    @property
    def id(self) -> HostId:
        return HostId((self.folder / "state" / "host-id").read_text().strip())

    def maps(self) -> dict[str, dict[bytes, bytes]]:
        found = {}
        for name in MAPS:
            with opened(next(self.pins.rglob(name))) as fd:
                found[name] = contents(fd)
        return found

    def said(self) -> dict[str, str]:
        """Return its status without what passes; {}: no driver runs."""
        return {name: SINCE_START.sub("", line) for name, line in self.status().items()
                if name not in PASSING} if self.running() else {}

    def problems(self, since: int = 0) -> list[str]:
        """Return the warnings and errors in its log from that byte on."""
        return [line for line in self.whole_log()[since:].splitlines() if PROBLEM.search(line)]

    def whole_log(self) -> str:
        log = self.folder / "driver.log"
        return log.read_text() if log.exists() else ""


@dataclass(frozen=True)
class State:
    """What tests compare: all that a container could lose, and what hosts say."""

    records: dict[str, Record]
    maps: list[dict[str, dict[bytes, bytes]]]
    links: list[list[str]]
    said: list[dict[str, str]]
    logged: list[int]  # each host's log, in bytes


@dataclass
class Given:
    """What a host assigned while data was spoilt; it must be released."""

    host: SpoiltHost
    address: str
    endpoint: str  # "": it assigned only the address
    worker: str


@dataclass
class Stream:
    """A busy connection, and a series of new ones."""

    name: str
    program: talk.Program
    failures: list[str] = field(default_factory=list)

    def counts(self) -> tuple[int, int]:
        self.program.say("?")
        found = json.loads(self.program.line())
        self.failures = found["failures"]
        return found["made"], found["rounds"]


class SpoiltWorld:
    """See the module.  It is spoilt_data.Places, too."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self.history = History()
        self.wire = stack.enter_context(netns.made("wire"))
        self.wire.ip("link add br0 type bridge")
        self.wire.ip(f"addr add {ETCD}/24 dev br0")
        self.wire.ip("link set br0 up")
        self.etcd = stack.enter_context(EtcdCluster(folder, address=ETCD, netns=self.wire, count=1))
        self.hosts = [self._host(number, folder) for number in (1, 2)]
        # Records that come late or never by themselves: fences, an absent host, a publisher.
        away = HostModel(SWITCHED_OFF, "off", IPv4Address("198.18.7.93"))
        self.write({keys.known(away.id): records.encode(records.known_fields(KnownHost(away, 0))),
                    keys.absent(away.id): records.encode(records.absence_fields(
                        Absence(away.id, 0))),
                    keys.publisher("another"): records.encode({"host": SWITCHED_OFF})})
        self.start(*self.hosts)
        self._allocate(self.hosts[0])
        for host in self.hosts:
            self.write({keys.fence(host.id): records.encode({})})
            self._create(host, NET, POOL, GATEWAY)
        self._create(self.hosts[1], OTHER_NET, OTHER_POOL, OTHER_GATEWAY)
        first, second = self.hosts
        self.boxes = {name: self._attach(host, name) for name, host in (
            ("a", first), ("b", first), ("c", second))}
        for name, number, task in (("web", 1, "c"), ("api", 2, "b")):
            self._offer(first, name, f"10.50.200.{number}", self.boxes[task].address)
        self._serve()
        wait_until(lambda: all(len(host.maps()["services"]) == 2 for host in self.hosts), LONG_S,
                   "services answer")
        a, b, c = self.boxes.values()
        self.streams = [self._stream(a, b.ip, "b"), self._stream(a, c.ip, "c"),
                        self._stream(c, a.ip, "a"), self._stream(a, self.vips[0], "c,b")]
        assert self.vnis
        self.goes_on()

    def _host(self, number: int, folder: Path) -> SpoiltHost:
        namespace = self._stack.enter_context(netns.made(f"h{number}"))
        join(self.wire, f"p{number}", namespace, "eth0")
        self.wire.ip(f"link set p{number} master br0")
        namespace.ip(f"addr add 198.18.7.{number}/24 dev eth0")
        own = folder / f"h{number}"
        own.mkdir()
        socket = str(own / "docker.sock")
        host = SpoiltHost(namespace, own, self.etcd.urls[0], ("--docker-socket", socket))
        host.name, host.docker = f"h{number}", DockerState(manager=number == 1)
        self._stack.enter_context(serving(socket, host.docker.answer))
        host.cgroup.mkdir()
        self._stack.callback(host.close)
        host.pins.mkdir()
        return host

    @staticmethod
    def _allocate(manager: SpoiltHost) -> None:
        """Do as a manager for a swarm's network, before any node has it."""
        call = manager.dockerd.ok
        call("IpamDriver.RequestPool", AddressSpace="slim-global", Pool=POOL, SubPool="",
             Options=None, V6=False)
        call("IpamDriver.RequestAddress", PoolID=f"slim-global/{POOL}", Address=GATEWAY,
             Options={"RequestAddressType": "com.docker.network.gateway"})
        call("NetworkDriver.AllocateNetwork", NetworkID=NET, Options={}, IPv6Data=None,
             IPv4Data=[{"AddressSpace": "", "Pool": POOL}])

    @staticmethod
    def _offer(manager: SpoiltHost, name: str, address: str, task: str) -> None:
        """Do as a manager for a service."""
        manager.dockerd.ok("IpamDriver.RequestAddress", PoolID=f"slim-global/{POOL}",
                           Address=address, Options=None)
        manager.docker.services[name] = NET, f"{address}/16", [task]

    @staticmethod
    def _free(manager: SpoiltHost) -> None:
        """End all services and the network; a manager does not wait for its nodes."""
        addresses = [address.partition("/")[0]
                     for _, address, _ in manager.docker.services.values()]
        manager.docker.services.clear()
        manager.docker.networks.pop(NET)
        manager.dockerd.ok("NetworkDriver.FreeNetwork", NetworkID=NET)
        for address in (*addresses, GATEWAY):
            manager.dockerd.ok("IpamDriver.ReleaseAddress", PoolID=f"slim-global/{POOL}",
                               Address=address)
        manager.dockerd.ok("IpamDriver.ReleasePool", PoolID=f"slim-global/{POOL}")

    def _create(self, host: SpoiltHost, network: str, pool: str, gateway: str) -> None:
        create_network(host, network, pool)
        host.docker.networks[network] = DockerNetwork(network, pool, gateway)

    def _attach(self, host: SpoiltHost, name: str) -> Box:
        sandbox = self._stack.enter_context(dockerd.sandbox(name))
        endpoint = EndpointId(secrets.token_hex(32))
        address = attach(host, sandbox, network=NET, endpoint=endpoint, container=name)
        host.docker.networks[NET].containers[endpoint] = address
        box = Box(name, host, sandbox, endpoint, address)
        self._note(f"{host.name}/{name}", address, host, endpoint)
        return box

    def _serve(self) -> None:
        for box in self.boxes.values():
            program = talk.start(self._container(box), SERVER, box.name)
            assert program.line() == "ready"
        wait_until(lambda: all(len(host.maps()["directory"]) == 3 for host in self.hosts)
                   and len(self.hosts[0].maps()["sandboxes"]) == 2
                   and len(self.hosts[1].maps()["sandboxes"]) == 1, LONG_S, "all know all")

    def _stream(self, box: Box, address: IPv4Address, names: str) -> Stream:
        program = talk.start(self._container(box), STREAM, address, names)
        assert program.line() == "ready"
        return Stream(f"{box.name} to {address}", program)

    def _container(self, box: Box) -> Container:
        machine = SimpleNamespace(cgroup=box.host.cgroup, stack=self._stack)
        return Container(box.netns, machine)  # type: ignore[arg-type]

    # Places.

    @property
    def hosts_ids(self) -> tuple[HostId, HostId, HostId]:
        first, second = self.hosts
        return first.id, second.id, SWITCHED_OFF

    @property
    def endpoints(self) -> tuple[EndpointId, EndpointId]:
        return self.boxes["a"].endpoint, self.boxes["c"].endpoint

    @property
    def addresses(self) -> tuple[IPv4Address, IPv4Address]:
        return self.boxes["a"].ip, self.boxes["c"].ip

    networks = NetworkId(NET), NetworkId(OTHER_NET)
    pools = POOL, OTHER_POOL
    vips = IPv4Address("10.50.200.1"), IPv4Address("10.50.200.2")
    swarms = SWARM, "another"
    underlays = IPv4Address("198.18.7.1"), IPv4Address("198.18.7.2")

    @cached_property
    def vnis(self) -> tuple[Vni, Vni]:
        stored = {json.loads(record.value)["key"]: Vni(keys.vni_of(key))
                  for key, record in self.records(keys.VNIS).items()}
        return stored[f"pool:{POOL}"], stored[f"pool:{OTHER_POOL}"]

    @property
    def other_task(self) -> IPv4Address:
        return self.boxes["b"].ip

    # etcd.

    def records(self, prefix: str = keys.ROOT) -> dict[str, Record]:
        return {read.entry.key: Record(read.entry.value, read.lease)
                for read in self.etcd.gateway().range(prefix)
                if not read.entry.key.startswith(keys.TESTS)}  # these end by themselves

    def write(self, changes: Changes, leases: dict[str, int] | None = None) -> None:
        """Put and delete; skip a put under an ended lease, since that record is its owner's."""
        for key, value in changes.items():
            if value is None:
                self.etcd.etcdctl("del", key)
                continue
            lease = (leases or {}).get(key, 0)
            done = self.etcd.etcdctl(
                "put", key, *((f"--lease={lease:x}",) if lease else ()), check=not lease,
                text=value.decode(errors="surrogateescape"))
            assert not done.returncode or "lease not found" in done.stderr, done.stderr

    def ended(self, lease: int) -> bool:
        """Say whether a lease has ended."""
        answer = self.etcd.etcdctl("lease", "timetolive", f"{lease:x}", "--write-out=json")
        return bool(json.loads(answer.stdout)["ttl"] < 0)

    def restore(self, before: State, changes: Changes) -> None:
        """Put the data right again, whatever has happened to it.

        Records of what was assigned since stay.
        """
        now = self.records()
        wrong: Changes = {key: record.value for key, record in before.records.items()
                          if key not in now or not same(now[key].value, record.value)}
        gone: Changes = {key: None for key in changes if key not in before.records}
        self.write({**wrong, **gone}, {key: record.lease for key, record in before.records.items()})

    # Drivers.

    def kill(self) -> None:
        for host in self.hosts:
            if host.running():
                host.end_driver(signal.SIGKILL)

    def start(self, *hosts: SpoiltHost, may_refuse: bool = False) -> None:
        """Start drivers; wait until each has read etcd, or has refused to start, if it may."""
        for host in hosts:
            if not host.running():
                host.launch_driver()
        for host in hosts:
            wait_until(partial(self._ready, host, may_refuse), BEGIN_S, f"{host.name} has begun")

    @staticmethod
    def _ready(host: SpoiltHost, may_refuse: bool) -> bool:
        if may_refuse and not (host.running() and not host.answers()):
            return True
        return host.answers() and host.status()["recovery"] == "done"

    # What is compared.

    def at_rest(self) -> State:
        """Wait until all is settled (a busy machine may end a lease), and return the state."""
        wait_until(lambda: all(host.status()["hosts"].startswith("2 registered")
                               for host in self.hosts), LONG_S, "hosts are registered")
        wait_until(lambda: self.records(keys.publisher(SWARM)), LONG_S, "a manager publishes")
        mark = keys.absent(self.hosts_ids[2])
        wait_until(lambda: b'"seen":"gone"' in self.records(mark)[mark].value, LONG_S,
                   "what is seen of the host that is gone is on record")
        return self.state()

    def state(self) -> State:
        # Tombstones end by themselves, after some minutes.
        kept = {key: record for key, record in self.records().items()
                if not is_tombstone(record.value)}
        return State(kept, [host.maps() for host in self.hosts],
                     [host.links() for host in self.hosts], [host.said() for host in self.hosts],
                     [len(host.whole_log()) for host in self.hosts])

    def taken(self, before: State) -> list[str]:
        """List what live containers need and have lost since."""
        found = []
        for host, maps, links in zip(self.hosts, before.maps, before.links, strict=True):
            now = host.maps()
            for name, entries in maps.items():
                gone = entries.keys() - now[name].keys()
                found += [f"{host.name}: {name} lacks {key.hex()}" for key in sorted(gone)]
            found += [f"{host.name}: no {link}" for link in _names(links) - _names(host.links())]
        return found

    def difference(self, before: State) -> list[str]:
        """List what is not as before."""
        now = self.state()
        found = [f"{key}: {before.records.get(key)} -> {now.records.get(key)}"
                 for key in sorted(before.records.keys() | now.records.keys())
                 if not key.startswith(ANSWERS)
                 if not MENDING.fullmatch(key) or key in before.records
                 if not QUESTION.fullmatch(key) or key in now.records
                 if not same(*(each.records[key].value if key in each.records else None
                               for each in (before, now)))]
        for number, host in enumerate(self.hosts):
            found += [f"{host.name}: {name}" for name, entries in before.maps[number].items()
                      if entries != now.maps[number][name] and name != "services"]
            if _names(before.links[number]) != _names(now.links[number]):
                found.append(f"{host.name}: {before.links[number]} -> {now.links[number]}")
            found += [f"{host.name}: {name}: {line!r} -> {now.said[number].get(name)!r}"
                      for name, line in before.said[number].items()
                      if line != now.said[number].get(name)]
        return found

    def reports(self, before: State) -> Reports:
        """Return what logs and status have said since."""
        lines = []
        for host, logged, said in zip(self.hosts, before.logged, before.said, strict=True):
            lines += host.problems(logged)
            lines += [line for name, line in host.said().items() if line != said.get(name)]
        return Reports(lines)

    def hear_of(self, given: Sequence[Given]) -> None:
        """Wait until every running driver has entered the new endpoints."""
        for host in filter(SpoiltHost.running, self.hosts):
            for each in (found for found in given if found.endpoint):
                packed = IPv4Address(each.address.partition("/")[0]).packed
                wait_until(lambda host=host, packed=packed: any(  # type: ignore[misc]
                    key.endswith(packed) for key in host.maps()["directory"]), LONG_S,
                    f"{host.name} hears of {each.address}")

    def goes_on(self) -> None:
        """Assert that each stream's connection lives, and that no new one has ever failed."""
        goals = {stream.name: [count + ENOUGH for count in stream.counts()]
                 for stream in self.streams}

        def reached(stream: Stream) -> bool:
            return all(now >= goal for now, goal in zip(
                stream.counts(), goals[stream.name], strict=True)) or bool(stream.failures)

        for stream in self.streams:
            wait_until(partial(reached, stream), LONG_S, f"{stream.name} goes on", 0.1)
        assert {stream.name: stream.failures for stream in self.streams if stream.failures} == {}

    # Requests, as dockerd makes them for new containers.

    def ask_for_more(self, hosts: Sequence[SpoiltHost]) -> tuple[list[Given], list[str]]:
        """Request an address and an endpoint on each host, and those of live containers.

        Return what was assigned, and the errors of requests that should have succeeded.
        """
        given: list[Given] = []
        errors: list[str] = []
        for host in hosts:
            self._ask(host, "", given, errors)
            for box in self.boxes.values():
                self._ask(host, str(box.ip), given, [])  # must be refused
        return given, errors

    def _ask(self, host: SpoiltHost, wanted: str, given: list[Given], errors: list[str]) -> None:
        worker = f"{host.name}/{secrets.token_hex(4)}"
        self.history.add(worker, "request", "invoke")
        reply = host.dockerd.call("IpamDriver.RequestAddress", PoolID=f"slim-local/{POOL}",
                                  Address=wanted, Options=None)
        if reply.error:
            self.history.add(worker, "request", "fail")
            errors.append(reply.error)
            return
        endpoint, address = secrets.token_hex(32), reply.json["Address"]
        created = host.dockerd.call(
            "NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=endpoint, Options={},
            Interface={"Address": address, "AddressIPv6": "", "MacAddress": ""})
        given.append(Given(host, address, "" if created.error else endpoint, worker))
        # Several hosts may hold an address that was requested by value; one endpoint may have it.
        if not created.error or not wanted:
            self._note(worker, address, host, given[-1].endpoint)
        if created.error:
            errors.append(created.error)

    def _note(self, worker: str, address: str, host: SpoiltHost, endpoint: str) -> None:
        """Record that the worker has the address, and its endpoint port."""
        self.history.add(worker, "request", "ok", address.partition("/")[0])
        if endpoint:
            self.history.add(worker, "request", "ok", self._port(host, endpoint))

    def _port(self, host: SpoiltHost, endpoint: str) -> str:
        local = self.records(keys.local_endpoint(host.id, EndpointId(endpoint)))
        return f"{host.name}:{json.loads(next(iter(local.values())).value)['port']}"

    def give_back(self, given: Sequence[Given]) -> None:
        for each in given:
            address = each.address.partition("/")[0]
            if each.endpoint:
                self.history.add(each.worker, "release", "invoke",
                                 self._port(each.host, each.endpoint))
                each.host.dockerd.ok("NetworkDriver.DeleteEndpoint", NetworkID=NET,
                                     EndpointID=each.endpoint)
            self.history.add(each.worker, "release", "invoke", address)
            each.host.dockerd.ok("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{POOL}",
                                 Address=address)

    def doctor(self, host: SpoiltHost) -> str:
        """Return what `slim doctor` prints."""
        return host.netns.run(
            sys.executable, "-m", "driver", "doctor", "--etcd", self.etcd.urls[0], "--underlay",
            "eth0", "--socket", host.socket, "--state", str(host.folder / "state"),
            "--config", os.devnull, check=False).stdout

    def close(self) -> None:
        """End all containers and networks; assert that nothing is left."""
        for stream in self.streams:
            stream.program.end()
        for box in self.boxes.values():
            detach(box.host, box.address, network=NET, endpoint=box.endpoint)
        self._free(self.hosts[0])
        for host in self.hosts:
            delete_network(host, NET)
        delete_network(self.hosts[1], OTHER_NET, OTHER_POOL, OTHER_GATEWAY)

        def left() -> list[str]:
            return [key for prefix in (keys.NETWORKS, keys.VNIS, keys.ENDPOINTS, keys.SUBNETS,
                                       keys.ADDRESSES, keys.OWNERS, keys.SERVICES)
                    for key, record in self.records(prefix).items()
                    if not is_tombstone(record.value)]

        wait_until(lambda: not left(), LONG_S, "nothing is left")
        assert all("Traceback" not in host.whole_log() for host in self.hosts)


def _names(links: Sequence[str]) -> set[str]:
    return {line.split()[0] for line in links}
