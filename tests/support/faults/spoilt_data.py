"""Lists what can go wrong with a record in etcd, for each kind of key: the table FAMILIES.

The records are those of the world in tests/netns/spoilt/world.py.  spoilt_driver.py spoils steps;
this module spoils data.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol
from urllib.parse import unquote

from driver.model import GLOBAL_HOLDER, EndpointId, HostId, NetworkId, NetworkKey, Vni
from driver.store.format import keys, records


class Kind(Enum):
    """What happens to a record."""

    DELETED = "deleted"
    GARBAGE = "garbage"
    NEWER = "newer schema"
    OLDER = "older value"
    SWAPPED = "swapped"  # with another host's, or another network's


class When(Enum):
    """While drivers run; or while none runs, before another host's starts and last its own."""

    RUNNING = "running"
    STARTING = "starting"


class Places(Protocol):
    """Names what is in the world.

    Host 1's records are spoilt; host 2 runs, too; host 3 has long been switched off.
    """

    @property
    def hosts_ids(self) -> tuple[HostId, HostId, HostId]: ...

    @property
    def endpoints(self) -> tuple[EndpointId, EndpointId]:
        """One of host 1 and one of host 2, in the first network."""

    @property
    def addresses(self) -> tuple[IPv4Address, IPv4Address]:
        """The addresses of these endpoints."""

    @property
    def networks(self) -> tuple[NetworkId, NetworkId]:
        """The ids of the first network, on both hosts, and of another one, on host 2 alone."""

    @property
    def pools(self) -> tuple[str, str]:
        """Their subnets (CIDR)."""

    @property
    def vnis(self) -> tuple[Vni, Vni]: ...

    @property
    def vips(self) -> tuple[IPv4Address, IPv4Address]:
        """The vips of two services in the first network."""

    @property
    def swarms(self) -> tuple[str, str]:
        """Two swarms' ids: host 1 is a manager of the first; the other has no manager."""

    @property
    def underlays(self) -> tuple[IPv4Address, IPv4Address]:
        """The underlay addresses of hosts 1 and 2."""

    @property
    def other_task(self) -> IPv4Address:
        """An address that serves as the first service's task does."""


Fields = dict[str, Any]
Two = tuple[str, str]
NOTHING: frozenset[Kind] = frozenset()
ALL_KINDS = frozenset(Kind)


@dataclass(frozen=True)
class Family:
    """A kind of key: a function of keys.py (or a constant, in small letters)."""

    name: str
    keys: Callable[[Places], Two]  # the spoilt record, and the one to swap it with
    # Older values of its fields; `...`: the field was not there yet.  Other fields are as now.
    older: Callable[[Places], Fields]
    # Kinds that the driver need not report: nothing depends on this record's content, or (an
    # older value) the content is valid.
    silent: frozenset[Kind] = frozenset({Kind.OLDER})
    also_named: Callable[[Places], list[str]] = lambda _: []  # other names in reports
    refuses: frozenset[Kind] = NOTHING  # a driver may refuse to start with it
    hint: Fields | None = None  # its value if the world has none
    # Values by hand of fields that make no record unreadable: spoilt, they mean less.
    by_hand: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


# Whatever is not `true` means no: its peers call its IPv6 address over the overlay.
NO_IPV6: tuple[object, ...] = (..., None, "true", "", 0, 1, 61000, 1.5, [], [True], {})


def _pool_key(p: Places, which: int) -> NetworkKey:
    return NetworkKey(f"pool:{p.pools[which]}")


# One line for each kind of key in driver/store/format/keys.py, as
# tests/unit/whole/test_spoilt_data.py checks.
FAMILIES: dict[str, Family] = {family.name: family for family in (
    Family("vni", lambda p: (keys.vni(p.vnis[0]), keys.vni(p.vnis[1])),
           older=lambda p: {"key": "pool:10.49.0.0/16"},
           also_named=lambda p: [p.pools[0], p.networks[0][:12]]),
    Family("network", lambda p: (keys.network(_pool_key(p, 0)), keys.network(_pool_key(p, 1))),
           older=lambda p: {"members": {p.hosts_ids[1]: [p.networks[0]]}},
           also_named=lambda p: [p.pools[0], p.networks[0][:12]]),
    Family("member", lambda p: (keys.member(_pool_key(p, 0), p.hosts_ids[0]),
                                keys.member(_pool_key(p, 0), p.hosts_ids[1])),
           older=lambda p: {"ids": ["0" * 25]}, also_named=lambda p: [p.networks[0][:12]]),
    Family("local_network", lambda p: (keys.local_network(p.hosts_ids[0], p.networks[0]),
                                       keys.local_network(p.hosts_ids[1], p.networks[1])),
           older=lambda p: {"vip": ..., "host_path": ...}),
    Family("local_endpoint", lambda p: (keys.local_endpoint(p.hosts_ids[0], p.endpoints[0]),
                                        keys.local_endpoint(p.hosts_ids[1], p.endpoints[1])),
           older=lambda p: {"offered": False}, by_hand={"takes_ipv6": NO_IPV6}),
    Family("endpoint", lambda p: (keys.endpoint(p.vnis[0], p.endpoints[0]),
                                  keys.endpoint(p.vnis[0], p.endpoints[1])),
           older=lambda p: {"port": 0, "takes_ipv6": ...},
           also_named=lambda p: [str(p.addresses[0])], by_hand={"takes_ipv6": NO_IPV6}),
    # Only a change of it matters.
    Family("fence", lambda p: (keys.fence(p.hosts_ids[0]), keys.fence(p.hosts_ids[1])),
           older=lambda p: {}, silent=ALL_KINDS),
    Family("host", lambda p: (keys.host(p.hosts_ids[0]), keys.host(p.hosts_ids[1])),
           older=lambda p: {"underlay": "198.18.7.91"}, silent=NOTHING),
    Family("underlay", lambda p: (keys.underlay(p.underlays[0]), keys.underlay(p.underlays[1])),
           older=lambda p: {"name": "before"}, also_named=lambda p: [p.hosts_ids[0][:12]]),
    # Any value that is there may be another cluster's.
    Family("cluster", lambda p: (keys.CLUSTER, keys.fence(p.hosts_ids[0])),
           older=lambda p: {"id": "f0" * 16}, silent=NOTHING, also_named=lambda p: ["cluster"],
           refuses=ALL_KINDS - {Kind.DELETED}),
    Family("known", lambda p: (keys.known(p.hosts_ids[0]), keys.known(p.hosts_ids[1])),
           older=lambda p: {"underlay": "198.18.7.91"}),
    Family("absent", lambda p: (keys.absent(p.hosts_ids[2]), keys.absent(p.hosts_ids[0])),
           older=lambda p: {"clock": 7}),
    Family("subnet", lambda p: (keys.subnet(p.pools[0]), keys.subnet(p.pools[1])),
           older=lambda p: {"gateway": None}),
    # Only a change of it matters.
    Family("subnet_guard", lambda p: (keys.SUBNET_GUARD, keys.fence(p.hosts_ids[0])),
           older=lambda p: {}, silent=ALL_KINDS),
    Family("address", lambda p: (keys.address(p.pools[0], p.addresses[0]),
                                 keys.address(p.pools[0], p.addresses[1])),
           older=lambda p: {"endpoint": ""}, also_named=lambda p: [p.endpoints[0][:12]]),
    # Read only when dockerd repeats the request for which it was written.
    Family("owner", lambda p: (keys.owner(p.pools[0], p.hosts_ids[0], "a"),
                               keys.owner(p.pools[0], p.hosts_ids[1], "c")),
           older=lambda p: {"address": "10.50.9.9"}, silent=ALL_KINDS),
    Family("service", lambda p: (keys.service(p.networks[0], p.vips[0]),
                                 keys.service(p.networks[0], p.vips[1])),
           older=lambda p: {"backends": [str(p.other_task)]}),
    # Hints among hosts, written only while something is missing.  A host that still misses
    # something asks again; an answer counts only for what a newer list misses, too.
    Family("question", lambda p: (keys.question(p.hosts_ids[0]), keys.question(p.hosts_ids[1])),
           older=lambda p: {"revision": 1}, silent=ALL_KINDS, hint={"revision": 1}),
    Family("answer", lambda p: (keys.answer(p.hosts_ids[0]), keys.answer(p.hosts_ids[1])),
           older=lambda p: {"revision": 1}, silent=ALL_KINDS,
           hint={"revision": 1, "underlay": None}),
    Family("services_question", lambda p: (keys.SERVICES_QUESTION, keys.question(p.hosts_ids[0])),
           older=lambda p: {"revision": 1}, silent=ALL_KINDS, hint={"revision": 1}),
    # Another manager, or the same one again, takes over the swarm: that is the record's purpose.
    Family("publisher", lambda p: (keys.publisher(p.swarms[0]), keys.publisher(p.swarms[1])),
           older=lambda p: {"host": p.hosts_ids[2]},
           silent=frozenset({Kind.DELETED, Kind.OLDER, Kind.SWAPPED})),
)}

Values = Mapping[str, bytes]  # all records, by key
Changes = dict[str, bytes | None]  # what is written; None: deleted


def spoilt(family: Family, kind: Kind, places: Places, values: Values) -> Changes:
    """Return the changes that spoil the record.  Error: AssertionError if there is no record."""
    key, other = family.keys(places)
    if key not in values and family.hint is not None:
        values = {**values, key: records.encode(family.hint)}
    assert key in values, f"the world has no {family.name}: {key}"
    if kind is Kind.DELETED:
        return {key: None}
    if kind is Kind.GARBAGE:
        return {key: b"\x00\xffgarbage"}
    if kind is Kind.SWAPPED:
        return {key: values.get(other), other: values[key]}
    fields = json.loads(values[key])
    if kind is Kind.NEWER:
        # In a newer schema its fields may mean anything.
        return {key: json.dumps({"schema": records.SCHEMA + 1, "write": fields["write"],
                                 "new": {}}).encode()}
    return {key: with_fields(values[key], family.older(places))}


def with_fields(value: bytes, changed: Mapping[str, object]) -> bytes:
    """Return a record with other values of some fields; `...`: without it."""
    fields = {name: each for name, each in (json.loads(value) | changed).items()
              if each is not ...}
    return json.dumps(fields | {"write": "0" * 16}).encode()


def by_hand(family: Family, places: Places, values: Values) -> list[Changes]:
    """Return the changes that spoil one field each."""
    key, _ = family.keys(places)
    return [{key: with_fields(values[key], {name: value})}
            for name, spoilt_values in family.by_hand.items() for value in spoilt_values]


def same(one: bytes | None, other: bytes | None) -> bool:
    """Say whether two values mean the same, whoever wrote them."""
    return _said(one) == _said(other)


def _said(value: bytes | None) -> object:
    try:
        fields = json.loads(value or b"null")
    except ValueError:
        return value
    if not isinstance(fields, dict):
        return fields
    # A record that a manager has entered again says so, and not who requested it and how.
    fields.pop("entered", None)
    if "host" in fields:  # a publisher's answer to hosts that miss services
        fields.pop("revision", None)
    for holder, hold in fields.get("holds", {}).items():
        hold.pop("request")
        if holder == GLOBAL_HOLDER:
            hold["owner"] = hold["kind"] = ""
    # Only the number of a pool's requests matters: the driver makes up their names.
    for pool in fields.get("pools", ()):
        pool["requests"] = {who: len(ids) if "swarm" not in who else ids
                            for who, ids in pool["requests"].items()}
    return {name: sorted(each, key=repr) if name == "pools" else each
            for name, each in fields.items() if name != "write"}


# Parts of keys that do not identify a record.
WORDS = {"endpoints", "networks", "fence", "members", "question"}


def names(family: Family, places: Places) -> list[str]:
    """Return what reports may call the record: its key, ids in full or shortened, an address."""
    key, _ = family.keys(places)
    parts = [unquote(part) for part in key.removeprefix(keys.ROOT).split("/")[1:]]
    found = [key, *family.also_named(places)]
    for part in parts:
        if part in WORDS:
            continue
        if len(part) >= 25:
            found.append(part[:12])
        elif len(part) == 8 and not part.isdigit():
            found.append(str(ip_address(bytes.fromhex(part))))
        elif len(part) > 3:
            found.append(part)
    return found


@dataclass(frozen=True)
class Case:
    """One entry of the product."""

    when: When
    family: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.when.value}-{self.family}-{self.kind.value.replace(' ', '-')}"


def product() -> list[Case]:
    """Every family, spoilt in every way, at every time."""
    return [Case(when, family, kind) for when in When for family in FAMILIES for kind in Kind]


def covering() -> list[Case]:
    """A subset of the product: each family once, each kind at each time with several families."""
    kinds, times = list(Kind), list(When)
    chosen = [Case(times[number % len(times)], family, kinds[number % len(kinds)])
              for number, family in enumerate(FAMILIES)]
    return sorted(chosen, key=lambda case: times.index(case.when))


# The table above must have every key that keys.py can spell, found by calling its functions.  The
# exceptions are the key for trial writes: no such record is ever made, and those of `slim test` and
# `slim top`, which live for seconds: tests/unit/testing/test_rounds_on_record.py and
# tests/unit/watching/test_summaries_on_record.py spoil them.
NEVER_MADE = {"trial", "round", "participants", "participant", "rows", "row", "watching",
              "summary"}

_SAMPLES: dict[object, object] = {
    int: 7, str: "x", Vni: Vni(7), HostId: HostId("b" * 32), EndpointId: EndpointId("e" * 64),
    NetworkId: NetworkId("n" * 64), NetworkKey: NetworkKey("pool:10.0.0.0/16"),
    IPv4Address: IPv4Address("10.0.0.1"), IPv4Address | IPv6Address: IPv4Address("10.0.0.1")}


def spelled() -> Iterator[tuple[str, str]]:
    """Yield each function or constant by name, with a key that it spells; prefixes are no keys."""
    for name, value in vars(keys).items():
        if name.startswith("_") or name == "ROOT" or name.lower() in NEVER_MADE:
            continue
        text = value
        if isinstance(value, types.FunctionType) and value.__module__ == keys.__name__:
            hints = typing.get_type_hints(value)
            if hints.get("return") is not str or name.endswith("_of"):
                continue
            text = value(*(_SAMPLES[hints[parameter]]
                           for parameter in inspect.signature(value).parameters))
        if isinstance(text, str) and text.startswith(keys.ROOT) and not text.endswith("/"):
            yield name.lower(), text


@dataclass
class Reports:
    """What drivers have said since: warnings and errors, status lines, answers to dockerd."""

    lines: list[str] = field(default_factory=list)

    def name(self, wanted: list[str]) -> bool:
        return any(name in line for line in self.lines for name in wanted)
