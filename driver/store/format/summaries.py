"""Encodes and decodes summaries of hosts; bounded in size, the most important first.

Lists in lists, and compressed: they are written every few seconds, and etcd keeps each for a while.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from math import isfinite
from typing import Any, Final, TypeVar

from driver.errors import UnsupportedRecord
from driver.model import VNI_MAX, HostId
from driver.services.ports import (
    Address,
    End,
    EndpointSeen,
    NetworkSeen,
    PairRate,
    Path,
    PathRate,
    PoolFill,
    ReasonRate,
    Summary,
)
from driver.store.format import records
from driver.store.format.records import Fields
from driver.store.kv.protocol import Entry

# Bytes of the lists, 60 KiB together; the rest is less than 4 KiB.  All before compression.
PAIRS_BYTES: Final = 28 << 10
ENDPOINTS_BYTES: Final = 20 << 10
NETWORKS_BYTES: Final = 6 << 10
REASONS_BYTES: Final = 6 << 10
SUMMARY_BYTES: Final = 64 << 10  # what is longer is not read
PROBLEMS: Final = 5
PROBLEM_CHARACTERS: Final = 100
NAME_CHARACTERS: Final = 80
_COUNT_MAX: Final = 1 << 53
_PATHS: Final = (Path.HOST, Path.OVERLAY, Path.LOCAL, Path.OUTSIDE)

T = TypeVar("T")


def encode(summary: Summary) -> bytes:
    """Return the value: what there is no room for is counted."""
    plain = json.dumps(_fields(summary), separators=(",", ":")).encode()
    return records.encode({"host": summary.host,
                           "packed": base64.b64encode(zlib.compress(plain)).decode()})


def _fields(summary: Summary) -> Fields:
    pairs = _fitting(summary.pairs, _pair_fields, PAIRS_BYTES)
    endpoints = _fitting(summary.endpoints, _endpoint_fields, ENDPOINTS_BYTES)
    return {
        "version": summary.version[:NAME_CHARACTERS],
        "every": round(summary.every_s, 2), "ready": summary.ready,
        "networks": _fitting(summary.networks, _network_fields, NETWORKS_BYTES),
        "endpoints": endpoints, "pairs": pairs,
        "reasons": _fitting(summary.reasons, _reason_fields, REASONS_BYTES),
        "paths": [[each.path.value, each.connections, *_rates(
            each.opened_per_s, each.in_per_s, each.out_per_s)] for each in summary.paths],
        "problems": [each[:PROBLEM_CHARACTERS] for each in summary.problems[:PROBLEMS]],
        "more": [summary.more_pairs + len(summary.pairs) - len(pairs),
                 summary.more_endpoints + len(summary.endpoints) - len(endpoints)]}


def decode(entry: Entry) -> Summary:
    """Inverse of `encode`.  Error: UnsupportedRecord."""
    if len(entry.value) > 2 * SUMMARY_BYTES:
        raise UnsupportedRecord(f"{entry.key} in etcd has {len(entry.value)} bytes, more than any "
                                "summary: left alone")
    return records.decode(entry, _packed)


def _packed(fields: Fields) -> Summary:
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(base64.b64decode(_text(fields["packed"]), validate=True),
                                     SUMMARY_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacking.eof:
        raise ValueError(f"it has more than {SUMMARY_BYTES} bytes, or its end is missing")
    try:
        found = json.loads(plain)
    except RecursionError:
        raise ValueError("its lists are too deep") from None
    return _summary(HostId(_text(fields["host"])), found)


def _summary(host: HostId, fields: Fields) -> Summary:
    more_pairs, more_endpoints = (_count(each) for each in fields["more"])
    return Summary(
        host, _text(fields["version"]), _rate(fields["every"]),
        fields["ready"] is True, tuple(map(_network, fields["networks"])),
        tuple(map(_endpoint, fields["endpoints"])), tuple(map(_pair, fields["pairs"])),
        tuple(map(_reason, fields["reasons"])), tuple(map(_path_rate, fields["paths"])),
        tuple(_text(each) for each in fields["problems"]), more_pairs, more_endpoints)


def _fitting(rows: Iterable[T], fields: Callable[[T], list[Any]], room_bytes: int
             ) -> list[list[Any]]:
    """Return the first rows that fit."""
    found: list[list[Any]] = []
    for row in rows:
        found.append(fields(row))
        room_bytes -= len(json.dumps(found[-1], separators=(",", ":"))) + 1
        if room_bytes < 0:
            found.pop()
            break
    return found


def _pair_fields(pair: PairRate) -> list[Any]:
    return [pair.here.vni, str(pair.here.address), pair.there.vni, str(pair.there.address),
            pair.path.value, pair.connections,
            *_rough(pair.opened_per_s, pair.in_per_s, pair.out_per_s)]


def _pair(row: list[Any]) -> PairRate:
    vni, address, peer_vni, peer, path, *numbers = row
    return PairRate(End(_vni(vni), _address(address)), End(_vni(peer_vni), _address(peer)),
                    _path(path), *_numbers(numbers))


def _path_rate(row: list[Any]) -> PathRate:
    path, *numbers = row
    return PathRate(_path(path), *_numbers(numbers))


def _endpoint_fields(each: EndpointSeen) -> list[Any]:
    return [each.id, each.vni, each.container[:NAME_CHARACTERS], _optional(each.address),
            _optional(each.address6), each.offers_host_path]


def _endpoint(row: list[Any]) -> EndpointSeen:
    endpoint_id, vni, container, address, address6, offers = row
    return EndpointSeen(_text(endpoint_id), _vni(vni), _text(container),
                        None if address is None else _address(address),
                        None if address6 is None else _address(address6), offers is True)


def _network_fields(network: NetworkSeen) -> list[Any]:
    return [network.id, network.vni, network.name[:NAME_CHARACTERS],
            [[each.cidr, each.used, each.size] for each in network.subnets], network.host_path,
            network.internal]


def _network(row: list[Any]) -> NetworkSeen:
    network_id, vni, name, subnets, host_path, internal = row
    return NetworkSeen(
        _text(network_id), _vni(vni), _text(name),
        tuple(PoolFill(_text(cidr), _count(used), _count(size)) for cidr, used, size in subnets),
        _text(host_path), internal is True)


def _reason_fields(reason: ReasonRate) -> list[Any]:
    return [reason.name, reason.kind, *_rates(reason.per_s), reason.total]


def _reason(row: list[Any]) -> ReasonRate:
    name, kind, per_s, total = row
    return ReasonRate(_text(name), _text(kind), _rate(per_s), _count(total))


def _rates(*values: float) -> list[float]:
    return [round(each, 2) for each in values]


def _rough(*values: float) -> list[float]:
    """Return them in three digits: there are many, and noise is what takes room."""
    return [float(f"{each:.3g}") for each in _rates(*values)]


def _numbers(values: list[Any]) -> tuple[int, float, float, float]:
    connections, opened, received, sent = values
    return _count(connections), _rate(opened), _rate(received), _rate(sent)


def _optional(address: Address | None) -> str | None:
    return None if address is None else str(address)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _address(value: Any) -> Address:
    return ip_address(_text(value))


def _path(value: Any) -> Path:
    path = Path(value)
    if path not in _PATHS:
        raise ValueError(f"{value} is no path of connections")
    return path


def _vni(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= VNI_MAX:
        raise ValueError(f"{value!r} is no network's number")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _COUNT_MAX:
        raise ValueError(f"{value!r} is no number of things")
    return value


def _rate(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value) or not 0 <= value <= _COUNT_MAX:
        raise ValueError(f"{value!r} is no rate")
    return float(value)
