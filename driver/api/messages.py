"""Defines the shape of every request and answer between dockerd and the driver.

Field names are dockerd's, spelled here only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface

from driver.api.codec import Fields, mac_text
from driver.errors import InvalidArgument
from driver.model import (
    GLOBAL_SPACE,
    LOCAL_SPACE,
    Endpoint,
    EndpointId,
    HostPath,
    NetworkId,
)
from driver.services import options as network_options
from driver.services.endpoints.requests import EndpointRequest, InterfaceNames
from driver.services.networks.lifecycle import NetworkPool

_GENERIC = "com.docker.network.generic"  # the user's -o options within Options
_INTERNAL = "com.docker.network.internal"
_MAC = "com.docker.network.endpoint.macaddress"
_IFNAME = "com.docker.network.endpoint.ifname"


@dataclass(frozen=True)
class NetworkRequest:
    """A call that names a network."""

    network_id: NetworkId

    @classmethod
    def decode(cls, fields: Fields) -> NetworkRequest:
        """Error: InvalidRequest."""
        return cls(fields.network_id())


@dataclass(frozen=True)
class CreateNetworkRequest:
    """CreateNetwork."""

    network_id: NetworkId
    pools: tuple[NetworkPool, ...]  # IPv4 first
    options: dict[str, str] = field(default_factory=dict)  # the user's -o
    internal: bool = False

    @classmethod
    def decode(cls, fields: Fields) -> CreateNetworkRequest:
        """Error: InvalidRequest."""
        options = fields.part("Options")
        return cls(fields.network_id(), _pools(fields), options.text_map(_GENERIC),
                   options.flag(_INTERNAL))


@dataclass(frozen=True)
class AllocateNetworkRequest:
    """AllocateNetwork, which a swarm manager sends; Options is the -o map itself."""

    network_id: NetworkId
    pools: tuple[NetworkPool, ...]
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def decode(cls, fields: Fields) -> AllocateNetworkRequest:
        """Error: InvalidRequest."""
        return cls(fields.network_id(), _pools(fields), fields.text_map("Options"))


@dataclass(frozen=True)
class CreateEndpointRequest:
    """CreateEndpoint."""

    endpoint: EndpointRequest
    mac_given: bool  # a field that dockerd filled must return empty

    @classmethod
    def decode(cls, fields: Fields) -> CreateEndpointRequest:
        """Error: InvalidRequest."""
        interface = fields.part("Interface")
        options = fields.part("Options")
        mac = interface.mac("MacAddress")
        wished = options.base64_mac(_MAC)
        return cls(
            EndpointRequest(
                id=fields.endpoint_id(), network_id=fields.network_id(),
                address=interface.ipv4("Address"), address6=interface.ipv6("AddressIPv6"),
                mac=mac or wished, ifname=options.text(_IFNAME),
                host_path=_host_path(options)),
            mac_given=mac is not None)


@dataclass(frozen=True)
class EndpointCall:
    """Leave, DeleteEndpoint, EndpointOperInfo, Program- and RevokeExternalConnectivity."""

    network_id: NetworkId
    endpoint_id: EndpointId

    @classmethod
    def decode(cls, fields: Fields) -> EndpointCall:
        """Error: InvalidRequest."""
        return cls(fields.network_id(), fields.endpoint_id())


@dataclass(frozen=True)
class JoinRequest:
    """Join."""

    network_id: NetworkId
    endpoint_id: EndpointId
    sandbox_key: str

    @classmethod
    def decode(cls, fields: Fields) -> JoinRequest:
        """Error: InvalidRequest."""
        return cls(fields.network_id(), fields.endpoint_id(),
                   fields.text("SandboxKey", required=True))


@dataclass(frozen=True)
class RequestPoolRequest:
    """RequestPool; the texts are the user's, and the service checks them."""

    address_space: str
    pool: str  # CIDR, or empty: any
    sub_pool: str  # CIDR, or empty
    options: dict[str, str]
    v6: bool

    @classmethod
    def decode(cls, fields: Fields) -> RequestPoolRequest:
        """Error: InvalidRequest."""
        return cls(fields.text("AddressSpace", required=True), fields.text("Pool"),
                   fields.text("SubPool"), fields.text_map("Options"), fields.flag("V6"))


@dataclass(frozen=True)
class PoolRequest:
    """ReleasePool."""

    pool_id: str

    @classmethod
    def decode(cls, fields: Fields) -> PoolRequest:
        """Error: InvalidRequest."""
        return cls(fields.text("PoolID", required=True))


@dataclass(frozen=True)
class AddressRequest:
    """RequestAddress (address empty: any) and ReleaseAddress."""

    pool_id: str
    address: str  # without prefix length
    options: dict[str, str]

    @classmethod
    def decode(cls, fields: Fields) -> AddressRequest:
        """Error: InvalidRequest."""
        return cls(fields.text("PoolID", required=True), fields.text("Address"),
                   fields.text_map("Options"))

    @classmethod
    def decode_release(cls, fields: Fields) -> AddressRequest:
        """Error: InvalidRequest, also without an address."""
        fields.text("Address", required=True)
        return cls.decode(fields)


Answer = dict[str, object]
# What dockerd asks once, and remembers; first the protocols that it may use with us.
ACTIVATED: Answer = {"Implements": ["NetworkDriver", "IpamDriver"]}
IPAM_CAPABILITIES: Answer = {"RequiresMACAddress": False, "RequiresRequestReplay": False}
ADDRESS_SPACES: Answer = {"LocalDefaultAddressSpace": LOCAL_SPACE,
                          "GlobalDefaultAddressSpace": GLOBAL_SPACE}


def network_capabilities(scope: str) -> Answer:
    """Answer GetCapabilities of a network driver; scope: one of settings.SCOPES."""
    return {"Scope": scope, "ConnectivityScope": scope, "GwAllocChecker": True}


def created_endpoint(endpoint: Endpoint, *, mac_given: bool) -> Answer:
    """Return CreateEndpoint's answer: only what dockerd did not specify itself."""
    interface: Answer = {} if mac_given else {"MacAddress": mac_text(endpoint.mac)}
    return {"Interface": interface}


def joined(join: InterfaceNames) -> Answer:
    """Return Join's answer.  No gateway: docker_gwbridge provides egress and published ports."""
    names: Answer = {"SrcName": join.src_name, "DstPrefix": join.dst_prefix}
    if join.dst_name:
        names["DstName"] = join.dst_name
    return {"InterfaceName": names}


def operational(endpoint: Endpoint | None) -> Answer:
    """Return EndpointOperInfo's answer: Docker shows it nowhere, but it helps in its debug log."""
    if endpoint is None:
        return {"Value": {}}
    return {"Value": {"slim.mac": mac_text(endpoint.mac), "slim.vni": str(endpoint.vni),
                      "slim.port": str(endpoint.port)}}


def requested_address(address: IPv4Interface | IPv6Interface) -> Answer:
    """Return RequestAddress's answer; the prefix length becomes the container's netmask."""
    return {"Address": str(address), "Data": {}}


def _host_path(options: Fields) -> HostPath | None:
    """Read the endpoint's `--driver-opt`; Docker sends it beside its own options."""
    for name in options.names():
        if name.startswith(network_options.PREFIX) and name != network_options.HOST_PATH:
            raise InvalidArgument(f"unknown endpoint option {name!r}; known: "
                                  f"{network_options.HOST_PATH}")
    text = options.text(network_options.HOST_PATH)
    return network_options.host_path(text, "endpoint option") if text else None


def _pools(fields: Fields) -> tuple[NetworkPool, ...]:
    return tuple(NetworkPool(entry.text("AddressSpace"), entry.subnet("Pool"))
                 for name in ("IPv4Data", "IPv6Data") for entry in fields.parts(name))
