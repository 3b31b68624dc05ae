"""Owns the values in etcd: JSON with a schema number, to and from the model, checked on reading.

It must not know keys.  A value of a wrong or newer schema is refused and left alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
)
from typing import Any, TypeVar

from driver.errors import UnsupportedRecord
from driver.model import (
    Absence,
    Endpoint,
    EndpointId,
    Hold,
    HoldKind,
    Host,
    HostId,
    KnownHost,
    Network,
    NetworkId,
    NetworkKey,
    PoolUse,
    Removal,
    Reservation,
    Service,
    SubnetUse,
    Vni,
)
from driver.store.kv import Entry

SCHEMA = 1
VNI_LAST = (1 << 24) - 1
PORT_LAST = 65535
_SHOWN = 100  # characters of what is wrong

Fields = dict[str, Any]
T = TypeVar("T")


def encode(fields: Fields) -> bytes:
    """Return the value; `write` makes it this very write's own (see kv.commit_checked)."""
    return json.dumps({"schema": SCHEMA, **fields, "write": secrets.token_hex(8)},
                      separators=(",", ":")).encode()


def decode(entry: Entry, build: Callable[[Fields], T]) -> T:
    """Check the schema and build the model.  Error: UnsupportedRecord naming the key."""
    try:
        fields = json.loads(entry.value)
        schema = fields["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnsupportedRecord(f"{entry.key} in etcd is no record of slim: left alone") from None
    if type(schema) is not int or schema != SCHEMA:
        raise UnsupportedRecord(f"{entry.key} in etcd has schema {_brief(schema)}, this driver "
                                f"knows {SCHEMA}: left alone; upgrade this driver")
    try:
        return build(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedRecord(
            f"{entry.key} in etcd cannot be read ({_brief(error)}): left alone") from None


def network_fields(network: Network) -> Fields:
    """A host's part in a network."""
    return {"id": network.id, "key": network.key, "vni": network.vni,
            "subnets": list(network.subnets), "internal": network.internal, "mtu": network.mtu,
            "vip": network.vip}


def network(fields: Fields) -> Network:
    """Inverse of network_fields."""
    return Network(id=NetworkId(_text(fields["id"])), key=NetworkKey(_text(fields["key"])),
                   vni=vni(fields), subnets=tuple(_text(s) for s in fields["subnets"]),
                   internal=bool(fields["internal"]), mtu=_number(fields["mtu"]),
                   vip=bool(fields.get("vip", True)))


def vni(fields: Fields) -> Vni:
    """The network number of any record that has one."""
    return Vni(_number(fields["vni"], 1, VNI_LAST))


def members(fields: Fields) -> dict[HostId, tuple[NetworkId, ...]]:
    """Of a virtual network: which hosts have it, under which Docker ids."""
    return {HostId(host): tuple(NetworkId(_text(i)) for i in ids)
            for host, ids in fields["members"].items()}


def shared_endpoint_fields(endpoint: Endpoint) -> Fields:
    """What other hosts need to know of an endpoint."""
    return {"id": endpoint.id, "network_id": endpoint.network_id, "vni": endpoint.vni,
            "host": endpoint.host, "underlay": str(endpoint.underlay), "mac": endpoint.mac.hex(),
            "address": _optional(endpoint.address), "address6": _optional(endpoint.address6),
            "port": endpoint.port}


def local_endpoint_fields(endpoint: Endpoint) -> Fields:
    """What the endpoint's own host keeps."""
    return {**shared_endpoint_fields(endpoint), "sandbox_key": endpoint.sandbox_key}


def endpoint(fields: Fields) -> Endpoint:
    """Inverse of both."""
    mac = bytes.fromhex(fields["mac"])
    if len(mac) != 6:
        raise ValueError("mac")
    address, address6 = fields["address"], fields["address6"]
    return Endpoint(
        id=EndpointId(_text(fields["id"])), network_id=NetworkId(_text(fields["network_id"])),
        vni=vni(fields), host=HostId(_text(fields["host"])),
        underlay=IPv4Address(_text(fields["underlay"])), mac=mac,
        address=IPv4Interface(_text(address)) if address is not None else None,
        address6=IPv6Interface(_text(address6)) if address6 is not None else None,
        port=_number(fields["port"], 0, PORT_LAST),
        sandbox_key=_text(fields.get("sandbox_key", "")))


def host_fields(host: Host) -> Fields:
    """A machine as its peers know it."""
    return {"id": host.id, "name": host.name, "underlay": str(host.underlay)}


def host(fields: Fields) -> Host:
    """Inverse of host_fields."""
    return Host(id=HostId(_text(fields["id"])), name=_text(fields["name"]),
                underlay=IPv4Address(_text(fields["underlay"])))


def known_fields(known: KnownHost) -> Fields:
    """A machine that may be gone."""
    return {**host_fields(known.host), "return_after_s": known.return_after_s}


def known(fields: Fields) -> KnownHost:
    """Inverse of known_fields."""
    return KnownHost(host(fields), _number(fields["return_after_s"]))


def absence_fields(absence: Absence) -> Fields:
    """That a host is away; its version is etcd's matter."""
    return {"id": absence.host, "clock": absence.clock, "removal": absence.removal.value,
            "done": absence.done}


def absence(fields: Fields) -> Absence:
    """Inverse of absence_fields."""
    return Absence(HostId(_text(fields["id"])), _number(fields["clock"]),
                   Removal(fields["removal"]), bool(fields["done"]))


def service_fields(service: Service, swarm_id: str) -> Fields:
    """A service's address in a network."""
    return {"network_id": service.network_id, "address": str(service.address),
            "name": service.name, "backends": [str(each) for each in service.backends],
            "swarm": swarm_id}


def service(fields: Fields) -> Service:
    """Inverse of service_fields."""
    return Service(network_id=NetworkId(_text(fields["network_id"])),
                   address=IPv4Address(_text(fields["address"])), name=_text(fields["name"]),
                   backends=tuple(IPv4Address(_text(each)) for each in fields["backends"]))


def publisher(fields: Fields) -> HostId:
    """Who publishes a swarm's services."""
    return HostId(_text(fields["host"]))


def swarm_of(fields: Fields) -> str:
    """Whose service it is."""
    return _text(fields["swarm"])


def address(fields: Fields) -> IPv4Address | IPv6Address:
    """The address of an owner record."""
    return ip_address(_text(fields["address"]))


def reservation_fields(reservation: Reservation) -> Fields:
    """An address with its holders."""
    return {"address": str(reservation.address), "endpoint": reservation.endpoint,
            "holds": {holder: {"kind": hold.kind.value, "owner": hold.owner,
                               "request": hold.request}
                      for holder, hold in reservation.holds.items()}}


def reservation(fields: Fields) -> Reservation:
    """Inverse of reservation_fields."""
    return Reservation(
        address=address(fields), endpoint=EndpointId(_text(fields["endpoint"])),
        holds={holder: Hold(HoldKind(hold["kind"]), _text(hold["owner"]), _text(hold["request"]))
               for holder, hold in fields["holds"].items()})


def subnet_fields(use: SubnetUse) -> Fields:
    """A subnet with its pools."""
    return {"cidr": use.cidr, "gateway": _optional(use.gateway),
            "pools": [{"space": pool.space, "sub_pool": pool.sub_pool,
                       "requests": {user: list(ids) for user, ids in pool.requests.items()}}
                      for pool in use.pools]}


def subnet(fields: Fields) -> SubnetUse:
    """Inverse of subnet_fields."""
    gateway = fields["gateway"]
    return SubnetUse(
        cidr=_text(fields["cidr"]), gateway=None if gateway is None else ip_address(_text(gateway)),
        pools=tuple(PoolUse(
            space=_text(pool["space"]), sub_pool=_text(pool["sub_pool"]),
            requests={user: tuple(_text(i) for i in ids)
                      for user, ids in pool["requests"].items()})
            for pool in fields["pools"]))


def _optional(value: object | None) -> str | None:
    return None if value is None else str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any, first: int | None = None, last: int | None = None) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    if (first is not None and value < first) or (last is not None and value > last):
        raise ValueError(f"{value} is not from {first} to {last}")
    return value


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN - 3] + "..."
