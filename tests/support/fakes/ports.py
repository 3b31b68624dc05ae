"""Fakes the ports with resources in dicts, so that a test can count what is left.

Each fake can be told to fail: see Faults.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_interface, ip_network

from driver.errors import Conflict, NotFound, SlimError, StoreUnavailable
from driver.model import (
    Endpoint,
    EndpointId,
    Host,
    HostId,
    HostPath,
    Network,
    NetworkId,
    NetworkKey,
    Vni,
)
from driver.services.ports import (
    DirectoryListener,
    RoutedNetwork,
    Said,
    SandboxEntry,
    Subnet,
    Veth,
    VipListener,
    VipSaid,
)

HOST = Host(HostId("a" * 32), "host-a", IPv4Address("198.18.0.1"))


@dataclass
class Faults:
    """Counts effects (not look-ups) over all fakes, and makes a chosen one fail.

    `fail_at` is 1 for the first effect, and 0 for none.  `after`: it fails after the effect, as a
    time-out does.  `down`: every call to the store fails.
    """

    fail_at: int = 0
    after: bool = False
    down: bool = False
    done: list[str] = field(default_factory=list)
    error: type[SlimError] = StoreUnavailable

    def effect(self, name: str, act: Callable[[], None]) -> None:
        self.done.append(name)
        hit = len(self.done) == self.fail_at
        if hit and not self.after:
            raise self.error(f"injected at step {len(self.done)}: {name}")
        act()
        if hit:
            raise self.error(f"injected after step {len(self.done)}: {name}")

    def reset(self) -> None:
        self.fail_at, self.after, self.down = 0, False, False
        self.done.clear()

    def look(self) -> None:
        if self.down:
            raise StoreUnavailable("etcd did not answer in 2 s; is it running?")


class FakeNetworks:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: dict[NetworkId, Network] = {}
        self._keys: dict[NetworkKey, Vni] = {}
        self._lock = threading.RLock()

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True,
               host_path: HostPath = HostPath.AUTO, names: bool = True) -> Network:
        self.faults.look()
        with self._lock:
            vni = self._keys.get(key) or Vni(len(self._keys) + 1)
            network = Network(network_id, key, vni, subnets, internal, mtu, vip,
                              host_path, names)
            if self.live.get(network_id, network) != network:
                raise Conflict(f"network {network_id[:12]} exists with other properties")

            def act() -> None:
                self._keys[key] = vni
                self.live[network_id] = network

            self.faults.effect("networks.create", act)
            return network

    def delete(self, network_id: NetworkId) -> None:
        self.faults.look()
        self.faults.effect("networks.delete", lambda: self.live.pop(network_id, None))

    def get(self, network_id: NetworkId) -> Network | None:
        self.faults.look()
        return self.live.get(network_id)

    def on_record(self) -> Sequence[Network]:
        return self.list()

    def enter(self, network: Network) -> bool:
        self.faults.look()
        return False

    def note(self, network: Network) -> None: ...

    def list(self) -> list[Network]:
        self.faults.look()
        return list(self.live.values())


class FakeEndpoints:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: dict[EndpointId, Endpoint] = {}

    def create(self, endpoint: Endpoint) -> None:
        self.faults.look()
        if self.live.get(endpoint.id, endpoint) != endpoint:
            raise Conflict(f"endpoint {endpoint.id[:12]} exists with other properties")
        if endpoint.address and any(other.vni == endpoint.vni and other.id != endpoint.id
                                    and other.address == endpoint.address
                                    for other in self.live.values()):
            raise Conflict(f"address {endpoint.address.ip} is in use")
        self.faults.effect("endpoints.create",
                           lambda: self.live.__setitem__(endpoint.id, endpoint))

    def replace(self, endpoint: Endpoint) -> None:
        self.faults.look()
        if endpoint.id not in self.live:
            raise NotFound(f"no endpoint {endpoint.id[:12]}")
        self.faults.effect("endpoints.replace",
                           lambda: self.live.__setitem__(endpoint.id, endpoint))

    def delete(self, endpoint_id: EndpointId, known: Endpoint | None = None) -> None:
        self.faults.look()
        self.faults.effect("endpoints.delete", lambda: self.live.pop(endpoint_id, None))

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        self.faults.look()
        return self.live.get(endpoint_id)

    def forget_strays(self, has_link: Callable[[EndpointId], bool]) -> None:
        """Do nothing: these endpoints hold their sandboxes themselves."""

    def on_record(self) -> Sequence[Endpoint]:
        return self.list()

    def enter(self, endpoint: Endpoint) -> bool:
        self.faults.look()
        return False

    def note(self, endpoint: Endpoint) -> None: ...

    def list(self) -> list[Endpoint]:
        self.faults.look()
        return list(self.live.values())


class FakeDirectory:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: set[Vni] = set()

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        self.faults.effect("directory.follow", lambda: self.live.add(vni))

    def unfollow(self, vni: Vni) -> None:
        self.faults.effect("directory.unfollow", lambda: self.live.discard(vni))

    def read(self, vni: Vni) -> Iterable[Said]:
        return ()


class FakeListener:
    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None: ...

    def put(self, endpoint: Endpoint) -> None: ...

    def left(self, vni: Vni, endpoint: Endpoint) -> None: ...

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None: ...

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None: ...

    def unfollowed(self, vni: Vni) -> None: ...

    def followed(self, vnis: Collection[Vni]) -> None: ...


class FakeLinks:
    """`live` is what `ip link` would show, with the requested MAC and MTU."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: dict[str, Veth] = {}
        self.away: set[str] = set()
        self.macs: dict[str, bytes] = {}
        self.mtus: dict[str, int] = {}
        self._ifindex = itertools.count(100)

    def create_veth(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        name = self.veth_name(endpoint_id)

        def act() -> None:
            self.live.setdefault(
                name, Veth(name, next(self._ifindex), "sc" + endpoint_id[:11]))
            self.macs[name], self.mtus[name] = mac, mtu

        try:
            self.faults.effect("links.create_veth", act)
        except SlimError:
            self.live.pop(name, None)  # the contract: after an error nothing is left
            raise
        return self.live[name]

    def delete_veth(self, endpoint_id: EndpointId) -> None:
        self.faults.effect("links.delete_veth",
                           lambda: self.live.pop(self.veth_name(endpoint_id), None))

    def delete_veth_named(self, host_name: str) -> None:
        self.faults.effect("links.delete_veth_named", lambda: self.live.pop(host_name, None))

    def get_veth(self, endpoint_id: EndpointId) -> Veth | None:
        return self.live.get(self.veth_name(endpoint_id))

    def put_away(self, sandbox_key: str, endpoint: Endpoint, veth: Veth) -> None:
        """The method of ports.Sandboxes that EndpointLinks needs."""
        self.faults.effect("links.put_away", lambda: self.away.add(veth.host_name))

    def list_veths(self) -> dict[str, Veth]:
        return dict(self.live)

    def veth_name(self, endpoint_id: EndpointId) -> str:
        return "sl" + endpoint_id[:11]


class FakeDatapath:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: dict[EndpointId, int] = {}  # published endpoint -> ifindex
        self.attached: set[Vni] = set()  # networks with interfaces
        self.withdrawn_ifindexes: list[int] = []
        self.services: dict[tuple[Vni, IPv4Address], tuple[IPv4Address, ...]] = {}

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        self.faults.effect("datapath.publish",
                           lambda: self.live.__setitem__(endpoint.id, veth.host_ifindex))

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        self.withdrawn_ifindexes.append(host_ifindex)
        self.faults.effect("datapath.withdraw", lambda: self.live.pop(endpoint.id, None))

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None: ...

    def withdraw_sandbox(self, cookie: int) -> None: ...

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None: ...

    def put_remote(self, endpoint: Endpoint) -> None: ...

    def list_remotes(self) -> list[Endpoint]:
        return []

    def delete_remote(self, endpoint: Endpoint) -> None: ...

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        return False

    def local_networks(self) -> set[Vni]:
        return set(self.attached)

    def set_flood(self, vni: Vni, hosts: Sequence[IPv4Address],
                  ifindexes: Sequence[int]) -> None: ...

    def list_floods(self) -> list[Vni]:
        return []

    def put_vip(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]
                    ) -> None:
        self.faults.effect("datapath.put_vip",
                           lambda: self.services.__setitem__((vni, address), tuple(backends)))

    def delete_vip(self, vni: Vni, address: IPv4Address) -> None:
        self.faults.effect("datapath.delete_vip",
                           lambda: self.services.pop((vni, address), None))

    def list_vips(self) -> list[tuple[Vni, IPv4Address]]:
        return list(self.services)

    def counters(self) -> dict[str, int]:
        return {}


class FakeVipFeed:
    """`live` has the listeners by network; a test plays the feed by calling one."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: dict[NetworkId, VipListener] = {}
        self.on_record: list[VipSaid] = []

    def follow(self, network_id: NetworkId, listener: VipListener) -> None:
        self.faults.effect("services.follow",
                           lambda: self.live.__setitem__(network_id, listener))

    def unfollow(self, network_id: NetworkId) -> None:
        self.faults.effect("services.unfollow", lambda: self.live.pop(network_id, None))

    def read(self, network_id: NetworkId) -> Iterable[VipSaid]:
        return list(self.on_record)


class FakeFinisher:
    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.live: dict[EndpointId, Endpoint] = {}

    def expect(self, endpoint: Endpoint, veth: Veth) -> None:
        self.faults.effect("finisher.expect",
                           lambda: self.live.__setitem__(endpoint.id, endpoint))

    def forget(self, endpoint_id: EndpointId) -> None:
        self.faults.effect("finisher.forget", lambda: self.live.pop(endpoint_id, None))

    def resume_teardowns(self) -> None: ...


class FakeAddresses:
    """The smallest IPAM that suffices for wire tests of the network half."""

    def __init__(self) -> None:
        self.held: set[tuple[str, str]] = set()

    def request_pool(self, space: str, pool: str, sub_pool: str, *, v6: bool,
                     options: dict[str, str]) -> Subnet:
        return Subnet(f"{space}/{pool}", str(ip_network(pool)))

    def release_pool(self, pool_id: str) -> None: ...

    def hold_pools(self, network_id: NetworkId, cidrs: Sequence[str]) -> None: ...

    def let_pools_go(self, network_id: NetworkId) -> None: ...

    def request_address(self, pool_id: str, address: str, *, options: dict[str, str]):  # type: ignore[no-untyped-def]
        network = IPv4Network(pool_id.split("/", 1)[1])
        for host in network.hosts():
            if (pool_id, str(host)) not in self.held:
                self.held.add((pool_id, str(host)))
                return ip_interface(f"{host}/{network.prefixlen}")
        raise AssertionError

    def release_address(self, pool_id: str, address: str) -> None:
        self.held.discard((pool_id, address))


class World:
    """All fakes, the services over them, and what is alive in them."""

    def __init__(self, *, links_ahead: bool = False) -> None:
        from driver.services.endpoints.lifecycle import EndpointService
        from driver.services.endpoints.links import EndpointLinks
        from driver.services.endpoints.ports import EndpointPorts
        from driver.services.networks.following import Following
        from driver.services.networks.lifecycle import NetworkService
        from driver.services.vips.mirror import VipMirror
        from driver.work.ledger import Ledger

        self.faults = Faults()
        self.ledger = Ledger()  # never started: the tests run what is outstanding
        self.routed: list[RoutedNetwork] = []
        self.networks = FakeNetworks(self.faults)
        self.endpoints = FakeEndpoints(self.faults)
        self.directory = FakeDirectory(self.faults)
        self.links = FakeLinks(self.faults)
        self.datapath = FakeDatapath(self.faults)
        self.finisher = FakeFinisher(self.faults)
        self.ports = EndpointPorts(61000, 65535)
        self.endpoint_links = EndpointLinks(
            self.links, self.links, self.ledger if links_ahead else None)
        self.endpoint_service = EndpointService(
            host=HOST, networks=self.networks, endpoints=self.endpoints,
            links=self.endpoint_links, datapath=self.datapath, finisher=self.finisher,
            ports=self.ports, random_bytes=lambda count: bytes(range(count)),
            underlay_mtu=lambda: 1500, ledger=self.ledger)
        self.feed = FakeVipFeed(self.faults)
        self.vips = VipMirror(self.feed, self.datapath, self.ledger)
        self.following = Following(
            self.networks, self.directory, FakeListener(), self.vips)
        self.network_service = NetworkService(
            self.networks, self.following, self.endpoint_service, routed=lambda: self.routed,
            ledger=self.ledger)

    def live(self) -> dict[str, object]:
        """Return everything that a failed use case could leak, for comparison."""
        return {
            "networks": dict(self.networks.live), "endpoints": dict(self.endpoints.live),
            "followed": set(self.directory.live), "links": sorted(self.links.live),
            "published": sorted(self.datapath.live), "services": dict(self.datapath.services),
            "served networks": sorted(self.feed.live), "expected": dict(self.finisher.live),
            "ports": self.ports.in_use()}
