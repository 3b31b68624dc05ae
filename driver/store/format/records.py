"""Encodes and decodes the values in etcd: JSON with a schema number, checked on reading.

A value of a wrong or newer schema is refused and left alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
)
from typing import Any, TypeVar

from driver.errors import UnsupportedRecord
from driver.host_addresses import unfit
from driver.model import (
    VNI_MAX,
    Absence,
    Cluster,
    Endpoint,
    EndpointId,
    Fingerprint,
    Hold,
    HoldKind,
    Host,
    HostAddress,
    HostId,
    HostPath,
    KnownHost,
    Network,
    NetworkId,
    NetworkKey,
    PoolId,
    PoolUse,
    Removal,
    Reservation,
    Seen,
    SubnetUse,
    Vip,
    Vni,
)
from driver.services.ports import Answer, HoldNote, PoolNote
from driver.store.kv.protocol import Entry

SCHEMA = 1
PORT_LAST = 65535
NAME_MAX = 253  # characters (RFC 1035, 2.3.4)
_SHOWN = 100  # characters of a bad value in an error

Fields = dict[str, Any]
T = TypeVar("T")


def encode(fields: Fields) -> bytes:
    """Return the value; `write` makes it unique to this write (see Transaction.commit)."""
    return json.dumps({"schema": SCHEMA, **fields, "write": secrets.token_hex(8)},
                      separators=(",", ":")).encode()


def decode(entry: Entry, build: Callable[[Fields], T]) -> T:
    """Check the schema and build the model.  Error: UnsupportedRecord naming the key."""
    return parse(f"{entry.key} in etcd", entry.value, build)


def parse(name: str, value: bytes, build: Callable[[Fields], T]) -> T:
    """Check the schema and build the model.  Error: UnsupportedRecord with this name."""
    try:
        fields = json.loads(value)
        schema = fields["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnsupportedRecord(f"{name} is no record of slim: left alone") from None
    if type(schema) is not int or schema != SCHEMA:
        raise UnsupportedRecord(f"{name} has schema {_brief(schema)}, this driver "
                                f"knows {SCHEMA}: left alone; upgrade this driver")
    try:
        return build(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedRecord(
            f"{name} cannot be read ({_brief(error)}): left alone") from None


def says(entry: Entry, fields: Fields) -> bool:
    """Tell whether the value has exactly these fields, whichever write made it."""
    try:
        found = json.loads(entry.value)
    except (ValueError, RecursionError):
        return False
    return bool(isinstance(found, dict) and {**found, "write": ""} == {
        "schema": SCHEMA, **fields, "write": ""})


def network_fields(network: Network) -> Fields:
    """Return a host's part in a network."""
    return {"id": network.id, "key": network.key, "vni": network.vni,
            "subnets": list(network.subnets), "internal": network.internal, "mtu": network.mtu,
            "vip": network.vip, "host_path": network.host_path.value,
            "names": network.names}


def network(fields: Fields) -> Network:
    """Inverse of network_fields."""
    return Network(id=NetworkId(_text(fields["id"])), key=NetworkKey(_text(fields["key"])),
                   vni=vni(fields), subnets=tuple(_text(s) for s in fields["subnets"]),
                   internal=bool(fields["internal"]), mtu=_number(fields["mtu"]),
                   vip=bool(fields.get("vip", True)),
                   host_path=HostPath(fields.get("host_path", HostPath.AUTO)),
                   names=bool(fields.get("names", True)))


def vni(fields: Fields) -> Vni:
    """Return the VNI of any record that has one."""
    return Vni(_number(fields["vni"], 1, VNI_MAX))


# Stands in a network's `members` beside older drivers' hosts: all other hosts have keys of their
# own.  Older drivers do not know such keys and take it for a host, so they never remove the
# network as its last member.
OWN_KEYS = HostId("*")


def members(fields: Fields) -> dict[HostId, tuple[NetworkId, ...]]:
    """Return which hosts have a virtual network, by Docker ids, as older drivers wrote it."""
    return {HostId(host): tuple(NetworkId(_text(i)) for i in ids)
            for host, ids in fields["members"].items()}


def network_ids(fields: Fields) -> tuple[NetworkId, ...]:
    """Return the Docker ids under which a host has a virtual network."""
    return tuple(NetworkId(_text(i)) for i in fields["ids"])


def owner_of_vni(fields: Fields) -> NetworkKey:
    """Return the virtual network that a VNI belongs to."""
    return NetworkKey(_text(fields["key"]))


def shared_endpoint_fields(endpoint: Endpoint) -> Fields:
    """Return what other hosts need to know of an endpoint."""
    return {"id": endpoint.id, "network_id": endpoint.network_id, "vni": endpoint.vni,
            "host": endpoint.host, "underlay": str(endpoint.underlay), "mac": endpoint.mac.hex(),
            "address": _optional(endpoint.address), "address6": _optional(endpoint.address6),
            "port": endpoint.port if endpoint.offered else 0, "takes_ipv6": endpoint.takes_ipv6,
            "names": list(endpoint.names)}


def local_endpoint_fields(endpoint: Endpoint) -> Fields:
    """Return what the endpoint's own host keeps."""
    return {**shared_endpoint_fields(endpoint), "sandbox_key": endpoint.sandbox_key,
            "port": endpoint.port, "offered": endpoint.offered,
            "host_path": endpoint.host_path.value if endpoint.host_path else None}


def endpoint(fields: Fields) -> Endpoint:
    """Inverse of shared_endpoint_fields and local_endpoint_fields."""
    mac = bytes.fromhex(fields["mac"])
    if len(mac) != 6:
        raise ValueError("mac")
    address, address6 = fields["address"], fields["address6"]
    return Endpoint(
        id=EndpointId(_text(fields["id"])), network_id=NetworkId(_text(fields["network_id"])),
        vni=vni(fields), host=HostId(_text(fields["host"])),
        underlay=host_address(fields["underlay"]), mac=mac,
        address=IPv4Interface(_text(address)) if address is not None else None,
        address6=IPv6Interface(_text(address6)) if address6 is not None else None,
        port=_number(fields["port"], 0, PORT_LAST),
        takes_ipv6=fields.get("takes_ipv6") is True,  # absent from older drivers
        sandbox_key=_text(fields.get("sandbox_key", "")),
        offered=bool(fields.get("offered", True)),
        host_path=HostPath(chosen) if (chosen := fields.get("host_path")) is not None else None,
        names=_names(fields.get("names", [])))


def left_fields(endpoint: Endpoint) -> Fields:
    """Return the tombstone that replaces a record when its host says that the endpoint is gone.

    Older drivers cannot read it as an endpoint, and take the endpoint for gone, too.
    """
    return {"id": endpoint.id, "left": shared_endpoint_fields(replace(endpoint, names=()))}


def has_left(fields: Fields) -> bool:
    """Tell whether this is a tombstone, of an endpoint or a vip."""
    return "left" in fields


def left(fields: Fields) -> Endpoint:
    """Inverse of left_fields: the endpoint as it was."""
    return endpoint(fields["left"])


def revision_fields(revision: int) -> Fields:
    """Return a revision of etcd at which something is, or is to be, on record."""
    return {"revision": revision}


def revision(fields: Fields) -> int:
    """Inverse of revision_fields; 0: no revision."""
    return _number(fields.get("revision", 0), 0)


def answer_fields(answer: Answer) -> Fields:
    """Return what a host answers about all its records."""
    return {"revision": answer.revision, "underlay": _optional(answer.underlay)}


def answer(fields: Fields) -> Answer:
    """Inverse of answer_fields."""
    underlay = fields["underlay"]
    return Answer(_number(fields["revision"], 0),
                  None if underlay is None else host_address(underlay))


def host_fields(host: Host) -> Fields:
    """Return a host as its peers know it."""
    return {"id": host.id, "name": host.name, "underlay": str(host.underlay),
            "answers_probes": host.answers_probes, "version": host.version}


def host(fields: Fields) -> Host:
    """Inverse of host_fields."""
    return Host(id=HostId(_text(fields["id"])), name=_text(fields["name"]),
                underlay=host_address(fields["underlay"]),
                # Absent from older drivers.
                answers_probes=fields.get("answers_probes") is True,
                version=_text(fields.get("version", "")))


def cluster_fields(cluster: Cluster) -> Fields:
    """Return the cluster that the etcd belongs to."""
    return {"id": cluster.id, "name": cluster.name}


def cluster(fields: Fields) -> Cluster:
    """Inverse of cluster_fields."""
    return Cluster(_text(fields["id"]), _text(fields["name"]))


def registered_fields(host: Host, found: Fingerprint) -> Fields:
    """Return a registered host with its machine's fingerprint."""
    return {**host_fields(host), "boot": found.boot, "machine": found.machine}


def fingerprint(fields: Fields) -> Fingerprint:
    """Return the machine's fingerprint from registered_fields."""
    return Fingerprint(_text(fields.get("boot", "")), _text(fields.get("machine", "")))


def underlay_fields(host: Host) -> Fields:
    """Return the host that has an underlay address."""
    return {"id": host.id, "name": host.name, "underlay": str(host.underlay)}


def underlay(fields: Fields) -> Host:
    """Inverse of underlay_fields."""
    return host(fields)


def known_fields(known: KnownHost) -> Fields:
    """Return a host that may be gone."""
    return {**host_fields(known.host), "return_after_s": known.return_after_s}


def known(fields: Fields) -> KnownHost:
    """Inverse of known_fields."""
    return KnownHost(host(fields), _number(fields["return_after_s"]))


def absence_fields(absence: Absence) -> Fields:
    """Return a host's absence; its version is etcd's own."""
    return {"id": absence.host, "clock": absence.clock, "removal": absence.removal.value,
            "done": absence.done, "seen": absence.seen.value}


def absence(fields: Fields) -> Absence:
    """Inverse of absence_fields."""
    return Absence(HostId(_text(fields["id"])), _number(fields["clock"]),
                   Removal(fields["removal"]), bool(fields["done"]),
                   Seen(fields.get("seen", "")))  # absent from older drivers


def service_fields(service: Vip, swarm_id: str) -> Fields:
    """Return a vip in a network."""
    return {"network_id": service.network_id, "address": str(service.address),
            "name": service.name, "backends": [str(each) for each in service.backends],
            "swarm": swarm_id}


def service(fields: Fields) -> Vip:
    """Inverse of service_fields."""
    return Vip(network_id=NetworkId(_text(fields["network_id"])),
                   address=IPv4Address(_text(fields["address"])), name=_text(fields["name"]),
                   backends=tuple(IPv4Address(_text(each)) for each in fields["backends"]),
                   swarm=_text(fields["swarm"]))


def service_left_fields(service: Vip) -> Fields:
    """Return the tombstone that replaces a vip's record when a manager says that it is gone."""
    return {"left": {"network_id": service.network_id, "address": str(service.address)}}


def service_left(fields: Fields) -> tuple[NetworkId, IPv4Address]:
    """Inverse of service_left_fields."""
    was = fields["left"]
    return NetworkId(_text(was["network_id"])), IPv4Address(_text(was["address"]))


def publisher(fields: Fields) -> HostId:
    """Return the host that publishes a swarm's services."""
    return HostId(_text(fields["host"]))


def swarm_of(fields: Fields) -> str:
    """Return the id of the swarm that a vip belongs to."""
    return _text(fields["swarm"])


def address(fields: Fields) -> IPv4Address | IPv6Address:
    """Return the address of an owner record."""
    return ip_address(_text(fields["address"]))


def reservation_fields(reservation: Reservation) -> Fields:
    """Return an address with its holders."""
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
    """Return a subnet with its pools."""
    return {"cidr": use.cidr, "gateway": _optional(use.gateway),
            "pools": [{"space": pool.space, "sub_pool": pool.sub_pool,
                       "requests": {user: list(ids) for user, ids in pool.requests.items()}}
                      for pool in use.pools],
            **({"entered": dict(use.entered)} if use.entered else {})}


def subnet(fields: Fields) -> SubnetUse:
    """Inverse of subnet_fields."""
    gateway = fields["gateway"]
    return SubnetUse(
        cidr=_text(fields["cidr"]), gateway=None if gateway is None else ip_address(_text(gateway)),
        pools=tuple(PoolUse(
            space=_text(pool["space"]), sub_pool=_text(pool["sub_pool"]),
            requests={user: tuple(_text(i) for i in ids)
                      for user, ids in pool["requests"].items()})
            for pool in fields["pools"]),
        entered={network: _text(swarm) for network, swarm in fields.get("entered", {}).items()})


def pool_note_fields(note: PoolNote) -> Fields:
    """Return how often this host has requested a pool; kept on its disk only."""
    return {"pool": note.pool_id, "requests": note.requests}


def pool_note(fields: Fields) -> PoolNote:
    """Inverse of pool_note_fields."""
    return PoolNote(PoolId(_text(fields["pool"])), _number(fields["requests"], 1))


def hold_note_fields(note: HoldNote) -> Fields:
    """Return an address that this host holds; kept on its disk only."""
    return {"pool": note.pool_id, "address": note.address, "kind": note.hold.kind.value,
            "owner": note.hold.owner, "request": note.hold.request}


def hold_note(fields: Fields) -> HoldNote:
    """Inverse of hold_note_fields."""
    return HoldNote(PoolId(_text(fields["pool"])), str(ip_address(_text(fields["address"]))),
                    Hold(HoldKind(fields["kind"]), _text(fields["owner"]),
                         _text(fields["request"])))


def _optional(value: object | None) -> str | None:
    return None if value is None else str(value)


def host_address(value: Any) -> HostAddress:
    """Read U.  Drivers that know IPv4 only refuse any other, and leave that record alone."""
    found = ip_address(_text(value))
    if reason := unfit(found):
        raise ValueError(reason)
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _names(value: Any) -> tuple[str, ...]:
    """Leave out what is no name: the endpoint, and its other names, must be reached."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(each for each in value if isinstance(each, str) and 0 < len(each) <= NAME_MAX)


def _number(value: Any, first: int | None = None, last: int | None = None) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    if (first is not None and value < first) or (last is not None and value > last):
        raise ValueError(f"{value} is not from {first} to {last}")
    return value


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN - 3] + "..."
