"""One host's whole driver over an etcd and a kernel in memory, and the dockerd that drives it.

Nothing runs beside the test: `settle` does what the driver's own threads would do, and `reboot`
makes a new driver over what the killed one left.  Every call on a port is a step (steps.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any

from driver.errors import (
    DatapathError,
    EngineUnavailable,
    LinkError,
    SlimError,
    StateError,
    StoreUnavailable,
    UnsupportedRecord,
)
from driver.ipam.pools import parse_supernet
from driver.model import Endpoint, EndpointId, Host, HostId, NetworkId, Vni
from driver.services.addresses.holdings import Holdings
from driver.services.addresses.service import AddressService
from driver.services.directory.publisher import Publisher
from driver.services.endpoints.joins import JoinedEndpoints
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.endpoints.links import EndpointLinks
from driver.services.endpoints.ports import EndpointPorts
from driver.services.networks.following import Following
from driver.services.networks.lifecycle import NetworkService
from driver.services.notes.own import NotedEndpoints, NotedNetworks
from driver.services.ports import DirectoryListener, EngineView, Left, Said, Unreadable
from driver.services.sandboxes.finisher import Finisher
from driver.services.sandboxes.standing import choose
from driver.services.sandboxes.withholding import Withholding
from driver.services.upkeep.collect import Collector, Removals
from driver.services.upkeep.entering import Entering
from driver.services.upkeep.reconcile import Reconciler
from driver.services.upkeep.recovery import Recovery
from driver.services.vips.mirror import VipMirror
from driver.store.address_book import EtcdAddressBook
from driver.store.endpoints import EtcdEndpoints
from driver.store.format import keys, records
from driver.store.kv.protocol import Entry, KeyValue, OutcomeUnknown, Put
from driver.store.kv.recall import RecallingKeyValue
from driver.store.networks import EtcdNetworks
from driver.work.ledger import Ledger
from tests.support.fakes.kernel import (
    DiskNotes,
    Kernel,
    KernelInspector,
    KernelJoins,
    KernelLinks,
    KernelMaps,
    KernelSandboxes,
    KernelTeardowns,
    KernelVerdicts,
    KernelWatch,
)
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.fakes.later import InlineLaters
from tests.support.fakes.ports import FakeVipFeed, Faults
from tests.support.faults.steps import Steps
from tests.support.world.etcd import is_tombstone

ME = Host(HostId("a" * 32), "host-a", IPv4Address("198.18.0.1"))
SPACE = "slim-local"
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
COLLECT_S = 300.0
PASSES = 12  # of all background work: more than any retry needs


class InlineDirectory:
    """ports.Directory: `pump` tells the listener what etcd holds."""

    def __init__(self, kv: FakeKeyValue) -> None:
        self._kv = kv
        self._listeners: dict[Vni, DirectoryListener] = {}

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        self._listeners.setdefault(vni, listener)

    def unfollow(self, vni: Vni) -> None:
        listener = self._listeners.pop(vni, None)
        if listener is not None:
            listener.unfollowed(vni)

    def read(self, vni: Vni) -> Iterable[Said]:
        return [_said(entry) for entry in self._kv.range(keys.endpoints(vni)).entries]

    def pump(self) -> None:
        for vni, listener in list(self._listeners.items()):
            listener.snapshot(vni, self.read(vni), self._kv.range(keys.endpoints(vni)).revision)


def _said(entry: Entry) -> Said:
    try:
        if records.decode(entry, records.has_left):
            return Left(records.decode(entry, records.left))
        return records.decode(entry, records.endpoint)
    except UnsupportedRecord:
        return Unreadable(keys.endpoint_of(entry.key)[1])


class Docker:
    """What this host's dockerd believes there is; ports.Engine."""

    def __init__(self) -> None:
        self.networks: set[NetworkId] = set()
        self.endpoints: set[EndpointId] = set()
        self.pools: list[tuple[str, str]] = []
        self.addresses: set[Any] = set()

    def forget_pool(self, pool: tuple[str, str]) -> None:
        if pool in self.pools:
            self.pools.remove(pool)

    def forget_all(self) -> None:
        for kept in (self.networks, self.endpoints, self.pools, self.addresses):
            kept.clear()

    def look(self) -> EngineView:
        return EngineView(frozenset(self.networks), frozenset(self.endpoints),
                          {pool: self.pools.count(pool) for pool in self.pools},
                          frozenset(self.addresses))


class Whole:
    """Kernel, store and Docker live; the driver between them can be killed and made anew."""

    def __init__(self, between: Callable[[Any], Any] = lambda part: part) -> None:
        """between: stands in for a part where what brings all in line calls it."""
        self._between = between
        self.steps = Steps()
        self.kernel = Kernel()
        self.store = FakeStore()
        self.docker = Docker()
        self.now_s = 0.0
        self.reboot()

    # ------------------------------------------------------------------- the driver
    def reboot(self) -> None:
        """A new driver's parts; it has not looked at anything yet (see `recover`)."""
        self.steps.dead = False
        self.recovered = self.entered = False
        try:
            self._make()
        except SlimError:
            self.steps.dead = True  # the process has ended; its supervisor starts another one
            raise

    def _make(self) -> None:
        watch = self.steps.watch
        plain_kv = FakeKeyValue(self.store)
        kv: KeyValue = RecallingKeyValue(watch(plain_kv, "etcd", lambda method: (
            OutcomeUnknown if method == "commit" else StoreUnavailable)))
        links = watch(KernelLinks(self.kernel), "links", lambda _: LinkError,
                      free=("veth_name",))
        sandboxes = watch(KernelSandboxes(self.kernel), "sandboxes", lambda _: LinkError)
        teardowns = watch(KernelTeardowns(self.kernel), "teardowns", lambda _: LinkError)
        maps = watch(KernelMaps(self.kernel), "maps", lambda _: DatapathError)
        engine = watch(self.docker, "docker", lambda _: EngineUnavailable)
        self.ledger = Ledger(clock=lambda: self.now_s, wall=lambda: self.now_s)
        network_records = EtcdNetworks(kv, ME.id, ledger=self.ledger)
        endpoint_records = EtcdEndpoints(kv, ME.id, network_records, self.ledger)

        def notes(kind: str) -> Any:
            return watch(DiskNotes(self.kernel, kind), f"{kind} notes", lambda _: StateError)

        networks = NotedNetworks(network_records, notes("networks"))
        endpoints = JoinedEndpoints(
            NotedEndpoints(endpoint_records, notes("endpoints")), watch(
                KernelJoins(self.kernel), "joins", lambda _: LinkError))
        self.directory = InlineDirectory(plain_kv)
        self.ports = EndpointPorts(61000, 61099)
        self.watch = KernelWatch(self.kernel)
        self.looks = InlineLaters()
        self.withholding = Withholding(
            verdicts=watch(KernelVerdicts(self.kernel), "verdicts", lambda _: DatapathError,
                           free=("notes", "notes_of", "settle_rules", "forget_notes")),
            inspector=watch(KernelInspector(self.kernel), "inspector", lambda _: LinkError),
            watch=watch(self.watch, "watch", lambda _: LinkError,
                        free=("remove", "sweep")),
            underlay=ME.underlay, clock=lambda: self.now_s, later=self.looks,
            choice_of=lambda each: choose(each, networks.get(each.network_id)))
        self.finisher = Finisher(
            sandboxes=sandboxes, datapath=maps, teardowns=teardowns, underlay=ME.underlay,
            overlay_mtu=lambda: 1450, clock=lambda: self.now_s,
            offer_host_path=self._offer_host_path, request_port=self._request_port,
            withholding=self.withholding, ledger=self.ledger)
        self.withholding.offer = self.finisher.offer
        # What the programs' maps held before is read before anything can be asked.
        self.publisher = Publisher(maps, ME.id, underlay=ME.underlay, ledger=self.ledger)
        self.endpoint_links = EndpointLinks(links, sandboxes, self.ledger)
        self.endpoints = EndpointService(
            host=ME, networks=networks, endpoints=endpoints, links=self.endpoint_links,
            datapath=self.publisher, finisher=self.finisher, ports=self.ports,
            random_bytes=bytes, underlay_mtu=lambda: 1500, ledger=self.ledger)
        self.vips = VipMirror(FakeVipFeed(Faults()), maps, self.ledger)
        self.following = Following(networks, self.directory, self.publisher, self.vips)
        self.networks = NetworkService(networks, self.following, self.endpoints,
                                       ledger=self.ledger)
        self.addresses = AddressService(
            EtcdAddressBook(kv), ME.id, routed=tuple,
            bury=lambda each: self.endpoints.bury(each, sandboxes.cookie),
            orphaned=self.endpoints.orphaned,
            supernets=[parse_supernet("10.128.0.0/24", 26)],
            holdings=Holdings(ME.id, notes("pools"), notes("addresses")), ledger=self.ledger)
        between = self._between
        self.reconciler = Reconciler(
            networks=networks, endpoints=between(endpoints), links=between(links),
            sandboxes=sandboxes, finisher=self.finisher, pinned=maps, following=self.following,
            listener=self.publisher, service=between(self.endpoints), vips=self.vips)
        self.recovery = Recovery(self.reconciler, network_records.on_record)
        self.entering = Entering(
            networks=between(networks), endpoints=between(endpoints), addresses=self.addresses,
            service=between(self.endpoints), network_service=self.networks)
        self.own_networks, self.own_endpoints = networks, endpoints
        self.collector = Collector(
            engine=engine, networks=networks, endpoints=endpoints, links=links,
            sandboxes=sandboxes, after_s=COLLECT_S, clock=lambda: self.now_s,
            removals=Removals(self.endpoints, self.networks, self.addresses))

    # As in compose: these call back into what needs them to be made.
    def _request_port(self, endpoint_id: EndpointId) -> int:
        return self.endpoints.request_port(endpoint_id)

    def _offer_host_path(self, endpoint_id: EndpointId, offered: bool, takes_ipv6: bool) -> None:
        self.endpoints.offer_host_path(endpoint_id, offered, takes_ipv6)

    def recover(self) -> None:
        """What a driver does at its start."""
        self.recovered = self.recovery.attempt(first=True)
        for host_name in self.kernel.inside:  # the carrier monitor's first report
            self.finisher.carrier_up(host_name, self.kernel.links[host_name].host_ifindex)

    def _enter(self) -> bool:
        try:
            return self.entering.run()
        except SlimError:
            return False

    def settle(self) -> None:
        """Do what the driver's threads would do, as long as there is something."""
        for _ in range(PASSES):
            self.recovered = self.recovered or self.recovery.attempt()
            self.entered = self.entered or self._enter()
            self.directory.pump()
            busy = [self.ledger.run(), self.looks.pump()]
            with suppress(SlimError):
                self.withholding.tick()
            if not any(busy):
                return

    def collect(self) -> None:
        """Let so much time pass that everything is collected that Docker has forgotten."""
        for _ in range(6):  # seen and removed, its network seen and removed, and one that fails
            with suppress(SlimError):
                self.collector.run()
            self.settle()
            self.now_s += COLLECT_S

    # ------------------------------------------------------------- what there is
    def view(self) -> dict[str, object]:
        """Everything durable, and what the driver has in memory, comparable."""
        kernel = self.kernel.view()
        kernel["links"] = sorted(set(self.kernel.links) - self._links_between())
        return {**kernel, "etcd": self.records(), "ports": self.ports.in_use(),
                # Inner tables: what leaks here shows nowhere else, until there is no memory left.
                "expected": sorted(self.finisher._expected),
                "sandboxes in memory": sorted(self.finisher._by_sandbox),
                "judged": self.withholding.describe(), "watched": sorted(self.watch.watched),
                "directory in memory": self.publisher.directory_size()}

    def lasting(self) -> object:
        """Everything that a killed driver leaves; and what its parts of the kernel watch."""
        return (self.store.revision, sorted(self.store.leases), repr(self.kernel),
                sorted(self.watch.watched))

    def difference(self, wanted: dict[str, object]) -> str:
        """Say what `view` has and should not, and the other way round; empty if nothing."""
        found = self.view()
        return "\n".join(f"{name}: have {found[name]}\n{' ' * len(name)}  want {wanted[name]}"
                         for name in found if found[name] != wanted[name])

    def _links_between(self) -> set[str]:
        """Links before Join and after Leave: a killed driver may have made, or deleted, them."""
        own = keys.local_endpoints(ME.id)
        endpoints = [keys.local_endpoint_of(key) for key in self.store.entries
                     if key.startswith(own)]
        return {"sl" + endpoint_id[:11] for endpoint_id in endpoints
                if endpoint_id not in self.kernel.joins}

    def records(self) -> dict[str, object]:
        """Keys and values of the store, without what is random or stays, for minutes or good."""
        return {key: _without_random(_read(entry.value))
                for key, (entry, _) in sorted(self.store.entries.items())
                if not key.endswith("/fence") and not is_tombstone(entry.value)}

    # -------------------------------------------------------- other hosts
    def neighbour(self, endpoint: Endpoint) -> None:
        """Another host publishes an endpoint."""
        FakeKeyValue(self.store).commit([], [Put(
            keys.endpoint(endpoint.vni, endpoint.id),
            records.encode(records.shared_endpoint_fields(endpoint)))])

    def neighbour_gone(self, endpoint: Endpoint) -> None:
        kv, key = FakeKeyValue(self.store), keys.endpoint(endpoint.vni, endpoint.id)
        entry = kv.get(key)
        if entry is not None and isinstance(known := _said(entry), Endpoint):  # as it was last
            kv.commit([], [Put(key, records.encode(records.left_fields(known)))])


def _read(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value  # spoilt by a test


_RANDOM = {"write", "request"}


def _without_random(value: Any, name: str = "") -> Any:
    """Requests are counted; of a port only counts whether there is one."""
    if name == "requests" and isinstance(value, dict):
        return {user: len(ids) for user, ids in value.items()}
    if name == "port":
        return bool(value)
    if isinstance(value, dict):
        return {key: _without_random(each, key) for key, each in value.items()
                if key not in _RANDOM}
    if isinstance(value, list):
        return [_without_random(each) for each in value]
    return value
