"""What the use cases need from the outside, as Protocols: the seams of the whole driver.

store/, link/ and datapath/ implement them; services/ and the tests' fakes know nothing else.
Every effect stands beside its inverse.  Inverses of something absent succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Generic, Protocol, TypeVar

from driver.model import (
    Absence,
    Endpoint,
    EndpointId,
    Host,
    HostId,
    KnownHost,
    Network,
    NetworkId,
    NetworkKey,
    Removal,
    Reservation,
    Service,
    SubnetUse,
    Vni,
)

T = TypeVar("T")


class Networks(Protocol):
    """The networks of this host, durable in etcd (CreateNetwork is never replayed)."""

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True) -> Network:
        """Store the network and this host's part in it; allot a VNI if the key is new.

        Asking again with the same values returns the same Network.
        Errors: Conflict (other values), Exhausted (no VNI left), StoreUnavailable.
        """

    def delete(self, network_id: NetworkId) -> None:
        """Forget the network here; the last host to do so frees key and VNI."""

    def get(self, network_id: NetworkId) -> Network | None: ...

    def list(self) -> list[Network]:
        """All networks of this host."""

    def reread(self) -> Sequence[Network]:
        """Others have removed records of this host: read again, and return what was known."""


class Endpoints(Protocol):
    """Endpoint records in etcd.  Every host that serves the network watches them."""

    def create(self, endpoint: Endpoint) -> None:
        """Write the record and bind its address reservations to it, in one transaction.

        Errors: Conflict (id exists with other values; address belongs to another live
        endpoint of the network), StoreUnavailable.
        """

    def replace(self, endpoint: Endpoint) -> None:
        """Overwrite the record of an endpoint of this host.  Error: NotFound."""

    def delete(self, endpoint_id: EndpointId) -> None:
        """Remove the record; its reservation stays, unbound, until ReleaseAddress."""

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """Return an endpoint of this host."""

    def list(self) -> list[Endpoint]:
        """All endpoints of this host."""

    def reread(self) -> Sequence[Endpoint]:
        """See Networks.reread."""


class Directory(Protocol):
    """What other hosts (and this one) publish, as a feed: snapshot, changes, snapshot again."""

    def follow(self, vni: Vni, listener: DirectoryListener) -> None:
        """Feed `listener` with the network's endpoints from now on.  Idempotent."""

    def unfollow(self, vni: Vni) -> None: ...


class DirectoryListener(Protocol):
    """Called from the feed's own thread, never two calls at once for one network."""

    def snapshot(self, vni: Vni, endpoints: Iterable[Endpoint]) -> None:
        """This is all there is: what is not in it is gone."""

    def put(self, endpoint: Endpoint) -> None: ...

    def removed(self, vni: Vni, endpoint_id: EndpointId) -> None: ...

    def followed(self, vnis: Collection[Vni]) -> None:
        """These are all networks of this host; what is known of others is of the past."""


class ServiceListener(Protocol):
    """Called from the feed's own thread, never two calls at once for one network."""

    def snapshot(self, network_id: NetworkId, services: Iterable[Service]) -> None:
        """These are all services of the network that have an address there."""

    def put(self, service: Service) -> None: ...

    def removed(self, network_id: NetworkId, address: IPv4Address) -> None: ...


class ServiceFeed(Protocol):
    """What a swarm's managers publish of its services; see Directory."""

    def follow(self, network_id: NetworkId, listener: ServiceListener) -> None:
        """Feed `listener` with the network's services from now on.  Idempotent."""

    def unfollow(self, network_id: NetworkId) -> None: ...


class ServiceRecords(Protocol):
    """Services in etcd, written by one manager of each swarm.  All errors: StoreUnavailable."""

    def lead(self, swarm_id: str) -> bool:
        """Become the one who publishes, or stay it; to be asked every few seconds."""

    def resign(self) -> None:
        """Let another one publish, at once."""

    def publish(self, services: Collection[Service]) -> None:
        """Make these all of the swarm's services.

        Error: Conflict (somebody else publishes by now), and then nothing was written.
        """


class Hosts(Protocol):
    """Registered hosts; a record lives as long as its host keeps its lease."""

    def register(self, host: Host) -> None:
        """Put this host's record under a lease and keep it alive until `unregister`."""

    def unregister(self, host_id: HostId) -> None: ...

    def follow(self, listener: Callable[[dict[HostId, Host]], None]) -> None:
        """Call `listener` with all live hosts, now and at each change, from the feed's thread."""


class Absences(Protocol):
    """Hosts that have registered once, and what is on record about those without a lease.

    All errors: StoreUnavailable, UnsupportedRecord.  Of several drivers that try the same step
    one succeeds; for the others it returns False or None.
    """

    def known(self) -> dict[HostId, KnownHost]: ...

    def registered(self) -> set[HostId]:
        """Those of them that have a lease now."""

    def get(self, host_id: HostId) -> Absence | None: ...

    def note(self, known: KnownHost) -> bool:
        """Begin to count its time away, if it has no lease."""

    def put_off(self, absence: Absence) -> None:
        """Begin to count anew: it was seen alive."""

    def left_s(self, absence: Absence) -> int | None:
        """Seconds for which it may still be away, 0: none any more, None: for ever."""

    def begin(self, host_id: HostId, before: Absence | None, removal: Removal, *,
              registered: bool = False) -> Absence | None:
        """Put on record that its records are being removed; then, and only then, they may be.

        `before`: as read.  registered: also of a host with a lease, which it then loses.
        """

    def finish(self, absence: Absence) -> bool:
        """Put on record that all is removed; after EVERYTHING the host is not known any more."""


class Presence(Enum):
    """What became of a sign of life that was asked for."""

    ANSWERED = auto()
    ABSENT = auto()  # this network says that nobody is there
    SILENT = auto()


class Prober(Protocol):
    """Asks other machines for a sign of life."""

    def probe(self, hosts: Collection[IPv4Address], wait_s: float
              ) -> dict[IPv4Address, Presence]:
        """Ask all at once.  Error: LinkError (nothing could be asked)."""


@dataclass(frozen=True)
class Veth:
    """One endpoint's pair of interfaces.  The inner one is moved and renamed by dockerd."""

    host_name: str
    host_ifindex: int
    container_name: str  # its name on the host: Join's SrcName


class Links(Protocol):
    """Network interfaces of the host."""

    def create_veth(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        """Make the pair (host's end up, container's end NOARP and with `mac`); idempotent.

        `mtu` in bytes, for both ends.  Error: LinkError, and then nothing is left.
        """

    def delete_veth(self, endpoint_id: EndpointId) -> None:
        """Remove the pair, wherever its container's end is."""

    def delete_veth_named(self, host_name: str) -> None:
        """Remove a pair whose endpoint is not known, by its host's end's name."""

    def get_veth(self, endpoint_id: EndpointId) -> Veth | None: ...

    def list_veths(self) -> dict[str, Veth]:
        """All pairs of slim on this host, by the host's end's name."""

    def veth_name(self, endpoint_id: EndpointId) -> str:
        """Name that the host's end of this endpoint has or would have."""


@dataclass(frozen=True)
class Interface:
    """An endpoint's interface as found inside its namespace."""

    ifindex: int
    name: str


class Sandboxes(Protocol):
    """The inside of containers' network namespaces.  Never enters one in the caller's thread."""

    def cookie(self, sandbox_key: str) -> int | None:
        """The namespace's cookie (SO_NETNS_COOKIE, 64 bit); None if there is no namespace."""

    def set_up(self, sandbox_key: str, endpoint: Endpoint, veth: Veth, *, underlay: IPv4Address,
               overlay_mtu: int, primary: bool) -> None:
        """Routes, rules and the ingress hook for one endpoint that dockerd has moved in.

        `primary`: this interface carries the host path (its routing table names it).  Idempotent.
        """

    def tear_down(self, sandbox_key: str, underlay: IPv4Address) -> None:
        """Remove the host path's routes and rules (the last endpoint left).  Idempotent."""


class Teardowns(Protocol):
    """Sandboxes whose inside is still to be torn down; it outlives this process."""

    def begin(self, sandbox_key: str) -> None:
        """Note it.  Idempotent.  Error: LinkError."""

    def end(self, sandbox_key: str) -> None:
        """It is torn down, or in use again.  Idempotent.  Error: LinkError."""

    def unfinished(self) -> Sequence[str]:
        """Return the keys that were begun and not ended.  Error: LinkError."""


class SandboxFinisher(Protocol):
    """Completes sandboxes after Join has answered: dockerd moves the interface only then."""

    def expect(self, endpoint: Endpoint, veth: Veth) -> None:
        """Set the sandbox up when the container's end of `veth` has come up.

        Returns at once.  Idempotent; `endpoint` carries its sandbox_key.
        """

    def forget(self, endpoint_id: EndpointId) -> None:
        """Stop expecting, or take the endpoint out of its sandbox's entry and rules."""

    def resume_teardowns(self) -> None:
        """Go on with what a driver of before left, once all that runs is expected again.

        Returns at once.  Error: LinkError.
        """


@dataclass(frozen=True)
class Attachment:
    """What a sandbox's connect hook needs to know of one of its endpoints."""

    vni: Vni
    address: IPv4Interface
    port: int
    host_ifindex: int


@dataclass(frozen=True)
class SandboxEntry:
    """One sandbox as the maps know it."""

    cookie: int
    primary_ifindex: int  # host's end of the veth that carries its host path
    attachments: tuple[Attachment, ...]


class Datapath(Protocol):
    """The kernel maps.  All of it is derived from etcd and may be rebuilt at any time."""

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """Let the overlay path reach the endpoint, and attach the host end's hooks."""

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """Undo publish_endpoint, and end the endpoint's flows; ifindex 0: its link is gone."""

    def withdraw_interface(self, host_ifindex: int) -> None:
        """Undo publish_endpoint of an endpoint that nothing is known of any more."""

    def endpoint_ifindexes(self) -> set[int]:
        """Return the host's ends of all published endpoints."""

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        """Let the sandbox use the host path, both ways.  Replaces an earlier entry."""

    def withdraw_sandbox(self, cookie: int) -> None: ...

    def put_remote(self, endpoint: Endpoint) -> None:
        """Enter an endpoint of any host into the directory (and the reverse map)."""

    def delete_remote(self, endpoint: Endpoint) -> None: ...

    def list_remotes(self) -> Iterable[Endpoint]:
        """All directory entries, each as an endpoint of one address and without names."""

    def set_flood(self, vni: Vni, hosts: Sequence[IPv4Address], ifindexes: Sequence[int]) -> None:
        """Who gets the network's broadcasts: other hosts' underlay addresses, local veths."""

    def list_floods(self) -> Collection[Vni]:
        """Networks whose broadcasts anybody gets."""

    def refuse_hosts(self, hosts: Collection[IPv4Address]) -> None:
        """Let connect() to endpoints of these hosts (U), and no others, fail at once.

        Holds for a minute at least; ask again before.  Error: DatapathError.
        """

    def put_service(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]
                    ) -> None:
        """Let connections to this address go to any of these endpoints of the network.

        None of them: they are refused.  Idempotent.  Error: DatapathError.
        """

    def delete_service(self, vni: Vni, address: IPv4Address) -> None: ...

    def list_services(self) -> Collection[tuple[Vni, IPv4Address]]:
        """All services' addresses, with their networks."""

    def counters(self) -> dict[str, int]:
        """Packets or connections per reason since the maps were made."""


@dataclass(frozen=True)
class Subnet:
    """A pool as its requester sees it."""

    pool_id: str
    subnet: str  # CIDR, network form


class Addresses(Protocol):
    """IPAM: pools and reservations, cluster-wide.  Implemented by services/addresses."""

    def request_pool(self, space: str, pool: str, sub_pool: str, *, v6: bool,
                     options: dict[str, str]) -> Subnet: ...

    def release_pool(self, pool_id: str) -> None: ...

    def hold_pools(self, network_id: NetworkId, cidrs: Sequence[str]) -> None: ...

    def let_pools_go(self, network_id: NetworkId) -> None: ...

    def request_address(self, pool_id: str, address: str, *,
                        options: dict[str, str]) -> IPv4Interface | IPv6Interface: ...

    def release_address(self, pool_id: str, address: str) -> None: ...


@dataclass(frozen=True)
class Versioned(Generic[T]):
    """A record as it was read; `version` 0 and `value` None: there is none."""

    value: T | None
    version: int


class AddressBook(Protocol):
    """Pools and reservations in etcd.  All errors: StoreUnavailable, UnsupportedRecord.

    The writes return False if something is not as it was read any more: read again.  A write
    whose outcome is unknown, even after reading back, raises StoreUnavailable.
    """

    def subnets(self) -> tuple[tuple[str, ...], int]:
        """The CIDRs of all subnets of the cluster, and the version that guards that list."""

    def subnet(self, cidr: str) -> Versioned[SubnetUse]: ...

    def write_subnet(self, cidr: str, before: Versioned[SubnetUse], after: SubnetUse | None,
                     guard: int | None = None) -> bool:
        """Put or (None) remove; with `guard` only if no subnet came since that version."""

    def reservation(self, cidr: str, address: IPv4Address | IPv6Address
                    ) -> Versioned[Reservation]: ...

    def reservations(self, cidr: str) -> list[Versioned[Reservation]]: ...

    def taken(self, cidr: str, first: IPv4Address | IPv6Address,
              last: IPv4Address | IPv6Address) -> list[int]:
        """Addresses from `first` to `last` (included) that have a reservation, as numbers."""

    def count_taken(self, cidr: str, first: IPv4Address | IPv6Address,
                    last: IPv4Address | IPv6Address) -> int:
        """How many `taken` would return."""

    def owned(self, cidr: str, holder: str, owner: str
              ) -> Versioned[IPv4Address | IPv6Address]:
        """Which address `owner` was given last."""

    def write_reservation(self, subnet: Versioned[SubnetUse], cidr: str,
                          before: Versioned[Reservation], after: Reservation, *,
                          subnet_after: SubnetUse | None = None,
                          owned: Versioned[IPv4Address | IPv6Address] | None = None) -> bool:
        """Put, or remove if `after` is free, provided the subnet is as read, too.

        `subnet_after`: write this as well.  `owned`: as read; entered for holds that are new,
        provided it is unchanged, and removed with holds that go.
        """


@dataclass(frozen=True)
class EngineView:
    """What this host's dockerd knows of at one moment."""

    networks: frozenset[NetworkId]
    endpoints: frozenset[EndpointId]
    # (subnet, sub-pool or "") of networks whose IPAM is a plugin's -> how many there are
    pools: Mapping[tuple[str, str], int]
    # Of containers, gateways and auxiliary ones, of all networks alike.
    addresses: frozenset[IPv4Address | IPv6Address]


class Engine(Protocol):
    """Docker's API.  Never asked while a call of dockerd's is served."""

    def look(self) -> EngineView:
        """Ask what there is.  Error: EngineUnavailable."""


@dataclass(frozen=True)
class SwarmView:
    """What a manager knows of its swarm at one moment."""

    swarm_id: str
    services: tuple[Service, ...]  # on networks of this driver
    changing: bool  # tasks come and go at the moment


class Swarm(Protocol):
    """Docker's API, on a manager.  Never asked while a call of dockerd's is served."""

    def look(self) -> SwarmView | None:
        """Ask what there is; None: this host manages no swarm.  Error: EngineUnavailable."""


# The host's own routes: automatic pools keep clear of them.
RoutedNetworks = Callable[[], Sequence[IPv4Network | IPv6Network]]
