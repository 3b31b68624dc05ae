"""Defines the frozen values that every layer shares: no I/O, no JSON, no kernel formats.

Addresses are `ipaddress` objects; ports are integers in host byte order; a MAC is six bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_network
from typing import NewType

# Docker's ids.  A network id is 64 hex digits, or 25 base-36 digits for a swarm network.
# Outside swarm, every dockerd has its own id for what slim treats as one virtual network.
NetworkId = NewType("NetworkId", str)
EndpointId = NewType("EndpointId", str)

# Names a virtual network in the whole cluster: "pool:10.32.0.0/16" where slim's IPAM gave
# the pool (the same pool is the same network on every host), else "id:<NetworkId>".
NetworkKey = NewType("NetworkKey", str)
HostId = NewType("HostId", str)  # 32 hex digits, made once, kept in the state folder
PoolId = NewType("PoolId", str)  # "<space>/<cidr>" or "<space>/<cidr>/<sub-pool cidr>"
Vni = NewType("Vni", int)  # VXLAN network identifier, 1 .. 2^24-1 (RFC 7348)

# An address of a host in its underlay, U.
HostAddress = IPv4Address | IPv6Address

VNI_MAX = (1 << 24) - 1
SWARM_ID_LENGTH = 25  # characters of a swarm network's id; others have 64
# Address spaces of our IPAM.  dockerd keeps them in PoolIDs for years.
LOCAL_SPACE = "slim-local"  # each host requests and releases for itself
GLOBAL_SPACE = "slim-global"  # swarm managers request and release for the whole cluster
SPACES = (LOCAL_SPACE, GLOBAL_SPACE)
GLOBAL_HOLDER = "global"  # holds the addresses of swarm managers, all together


def by_family(address: HostAddress) -> tuple[int, int]:
    """Return what to sort hosts' addresses by: Python orders those of one family only."""
    return address.version, int(address)


class HostPath(StrEnum):
    """The user's choice for a container, an endpoint or a network."""

    OFF = "off"
    ON = "on"  # regardless of what is found in the container
    AUTO = "auto"  # unless something in the container needs virtual addresses on its packets


@dataclass(frozen=True)
class Host:
    """A machine that runs the driver, as its peers know it."""

    id: HostId
    name: str  # for people only
    underlay: HostAddress  # U: address of its tunnel end and of its host-path connections
    answers_probes: bool = False  # its kernel programs answer probes of the wire with a proof
    version: str = field(default="", compare=False)  # of slim; empty: from before tests


@dataclass(frozen=True)
class Cluster:
    """All hosts that share one etcd, and what distinguishes them from other clusters."""

    id: str  # 32 hex digits, made by the first driver
    name: str  # for people only: the host that started the cluster

    def __str__(self) -> str:
        return f"{self.id[:12]} (begun by {self.name})"


@dataclass(frozen=True)
class Fingerprint:
    """Hashes that distinguish a host from a copy of its disk; empty if unknown."""

    boot: str = ""  # of the current boot of its kernel and its driver's network namespace
    machine: str = ""  # of its machine-id and its underlay's MAC


@dataclass(frozen=True)
class KnownHost:
    """A host that has registered, alive or not."""

    host: Host
    # Seconds of absence after which others may have its addresses; 0: never automatically.
    return_after_s: int


class Removal(StrEnum):
    """What others remove of an absent host."""

    NONE = ""
    ADDRESSES = "addresses"  # endpoints, and the addresses it holds; networks stay
    EVERYTHING = "everything"


class Seen(StrEnum):
    """What the drivers that probe an absent host have seen of it."""

    SILENCE = ""  # from a host that has never answered the prober: that proves nothing
    GONE = "gone"  # certain: it has answered before, or the network says nobody is there
    ALIVE = "alive"  # it answers: only its driver, or its connection to etcd, is down


@dataclass(frozen=True)
class Absence:
    """The record about a host without a lease.  It ends when the host registers."""

    host: HostId
    clock: int  # id of the etcd lease that ends when it has been gone for long enough; 0: none
    removal: Removal = Removal.NONE  # under way
    done: bool = False  # the removal is complete
    seen: Seen = Seen.SILENCE
    version: int = 0  # of the record as read


@dataclass(frozen=True)
class Network:
    """One Docker network of this host, and the virtual network behind it."""

    id: NetworkId
    key: NetworkKey
    vni: Vni
    subnets: tuple[str, ...]  # CIDR, network form; v4 first, then v6
    internal: bool = False
    mtu: int = 0  # bytes; 0: derived from the underlay
    vip: bool = True  # vips answer
    host_path: HostPath = HostPath.AUTO
    names: bool = True  # its containers are found by their names from every host

    def subnet_of(self, address: IPv4Interface | IPv6Interface) -> str | None:
        """Return the network's subnet that holds `address`, None if none does."""
        for cidr in self.subnets:
            subnet = ip_network(cidr)
            if subnet.version == address.version and address.ip in subnet:
                return cidr
        return None


@dataclass(frozen=True)
class Vip:
    """A swarm service in one network: the address that any of its tasks answers for."""

    network_id: NetworkId
    address: IPv4Address
    name: str  # for people only
    backends: tuple[IPv4Address, ...]  # its running tasks' addresses, in order
    swarm: str = field(default="", compare=False)  # id of its swarm, if known


@dataclass(frozen=True)
class Endpoint:
    """A container's attachment to a network, on any host."""

    id: EndpointId
    network_id: NetworkId
    vni: Vni
    host: HostId
    underlay: HostAddress  # of its host
    mac: bytes  # six bytes
    address: IPv4Interface | None  # with its subnet's prefix length
    address6: IPv6Interface | None
    port: int  # endpoint port P (host byte order); 0: reachable over the overlay path only
    sandbox_key: str = ""  # path of its network namespace; empty until Join
    # Set for this host's endpoints only.  False: the endpoint keeps P, but peers see 0 for now.
    offered: bool = True
    host_path: HostPath | None = None  # chosen for this endpoint; None: as for its network
    names: tuple[str, ...] = ()  # of its container in this network; its own is the first
    # Peers may call its IPv6 address by `port`, too; False: over the overlay path only.
    takes_ipv6: bool = False


class HoldKind(StrEnum):
    """How an address came to be held: chosen by us, named by the requester, or as a gateway."""

    DYNAMIC = "dynamic"
    EXACT = "exact"
    GATEWAY = "gateway"


KEPT = "kept:"  # an owner that no container is: their names have no colon


@dataclass(frozen=True)
class Hold:
    """One holder's claim on an address."""

    kind: HoldKind
    owner: str = ""  # the requester (MAC or endpoint name), if dockerd says so
    request: str = ""  # random id of the request that created it

    @property
    def kept(self) -> bool:
        """Whether it waits for a container whose host went down, and which is to start again."""
        return self.owner == KEPT


# What an endpoint's address gets that nobody holds: who requested it is not known there.
STAND_IN = Hold(HoldKind.EXACT)


@dataclass(frozen=True)
class Reservation:
    """An address of a subnet with its holders: host ids, and "global" for swarm managers.

    It exists while it has a hold or is bound to an endpoint.
    """

    address: IPv4Address | IPv6Address
    holds: Mapping[str, Hold] = field(default_factory=dict)
    endpoint: EndpointId = EndpointId("")  # the live endpoint that the address is bound to

    @property
    def free(self) -> bool:
        """Whether nobody has the address, so the record is removed."""
        return not self.holds and not self.endpoint

    def held(self, holder: str, hold: Hold) -> Reservation:
        """Return it with this holder's claim, which replaces an earlier one."""
        return replace(self, holds={**self.holds, holder: hold})

    def released(self, holder: str) -> Reservation:
        """Return it without this holder's claim."""
        return replace(self, holds={h: c for h, c in self.holds.items() if h != holder})

    def bound(self, endpoint: EndpointId) -> Reservation:
        """Return it bound to an endpoint; "" unbinds."""
        return replace(self, endpoint=endpoint)


@dataclass(frozen=True)
class PoolUse:
    """A pool (one PoolID) of a subnet, and who has requested it how often.

    `requests`: user (a host's id, or "swarm") -> the ids of its requests not yet released.  A
    swarm's request ids are the ids of its networks.
    """

    space: str
    sub_pool: str  # CIDR; empty: the whole subnet
    requests: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class SubnetUse:
    """A subnet of our IPAM: all its pools, and the gateway address that they share."""

    cidr: str
    gateway: IPv4Address | IPv6Address | None
    pools: tuple[PoolUse, ...]
    # Swarm networks whose requests a manager has entered again -> their swarm's id.
    # Only networks that are still among the requests count; others have gone since.
    entered: Mapping[str, str] = field(default_factory=dict)
