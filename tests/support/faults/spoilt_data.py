"""Owns what can go wrong with a record in etcd, for each kind of key: the table FAMILIES.

It knows how records look and where they are in the world of tests/netns/spoilt/world.py, and
nothing of what the driver does about it.  spoilt_driver.py spoils steps; this spoils data.
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
    """While drivers run; or while none runs: then another host's starts, and last its own."""

    RUNNING = "running"
    STARTING = "starting"


class Places(Protocol):
    """Where things are: hosts 1, whose records are spoilt, and 2; and 3, long switched off."""

    @property
    def hosts_ids(self) -> tuple[HostId, HostId, HostId]: ...

    @property
    def endpoints(self) -> tuple[EndpointId, EndpointId]:
        """Of host 1 and of host 2, in the first network."""

    @property
    def addresses(self) -> tuple[IPv4Address, IPv4Address]:
        """Of these endpoints."""

    @property
    def networks(self) -> tuple[NetworkId, NetworkId]:
        """The first one's, of both hosts; another one's, of host 2 alone."""

    @property
    def pools(self) -> tuple[str, str]:
        """Their subnets (CIDR)."""

    @property
    def vnis(self) -> tuple[Vni, Vni]: ...

    @property
    def vips(self) -> tuple[IPv4Address, IPv4Address]:
        """Of two services in the first network."""

    @property
    def swarms(self) -> tuple[str, str]:
        """Ids: host 1 is a manager of the first, nobody is one of the other."""

    @property
    def underlays(self) -> tuple[IPv4Address, IPv4Address]:
        """Of hosts 1 and 2."""

    @property
    def other_task(self) -> IPv4Address:
        """An address that serves like the first service's task."""


Fields = dict[str, Any]
Two = tuple[str, str]
NOTHING: frozenset[Kind] = frozenset()
ALL_KINDS = frozenset(Kind)


@dataclass(frozen=True)
class Family:
    """A kind of key: a function of keys.py (or a constant, in small letters)."""

    name: str
    keys: Callable[[Places], Two]  # of the record that is spoilt, and of that it is swapped with
    # What its fields were once, `...`: not there yet; the others are as they are.
    older: Callable[[Places], Fields]
    # Kinds that nobody needs to be told of, since nobody decides anything by this record's
    # content, or (an older value) since it is a right one.
    silent: frozenset[Kind] = frozenset({Kind.OLDER})
    also_named: Callable[[Places], list[str]] = lambda _: []  # in reports, for the key
    refuses: frozenset[Kind] = NOTHING  # a driver may refuse to start with it
    hint: Fields | None = None  # what it says where the world has none: nobody needs one


def _pool_key(p: Places, which: int) -> NetworkKey:
    return NetworkKey(f"pool:{p.pools[which]}")


# One line for each kind of key in driver/store/format/keys.py, as
# tests/unit/whole/test_spoilt_data.py makes sure.
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
           older=lambda p: {"offered": False}),
    Family("endpoint", lambda p: (keys.endpoint(p.vnis[0], p.endpoints[0]),
                                  keys.endpoint(p.vnis[0], p.endpoints[1])),
           older=lambda p: {"port": 0}, also_named=lambda p: [str(p.addresses[0])]),
    # Only whether it has changed counts.
    Family("fence", lambda p: (keys.fence(p.hosts_ids[0]), keys.fence(p.hosts_ids[1])),
           older=lambda p: {}, silent=ALL_KINDS),
    Family("host", lambda p: (keys.host(p.hosts_ids[0]), keys.host(p.hosts_ids[1])),
           older=lambda p: {"underlay": "198.18.7.91"}, silent=NOTHING),
    Family("underlay", lambda p: (keys.underlay(p.underlays[0]), keys.underlay(p.underlays[1])),
           older=lambda p: {"name": "before"}, also_named=lambda p: [p.hosts_ids[0][:12]]),
    # Anything but none at all may be another cluster's.
    Family("cluster", lambda p: (keys.CLUSTER, keys.fence(p.hosts_ids[0])),
           older=lambda p: {"id": "f0" * 16}, silent=NOTHING, also_named=lambda p: ["cluster"],
           refuses=ALL_KINDS - {Kind.DELETED}),
    Family("known", lambda p: (keys.known(p.hosts_ids[0]), keys.known(p.hosts_ids[1])),
           older=lambda p: {"underlay": "198.18.7.91"}),
    Family("absent", lambda p: (keys.absent(p.hosts_ids[2]), keys.absent(p.hosts_ids[0])),
           older=lambda p: {"clock": 7}),
    Family("subnet", lambda p: (keys.subnet(p.pools[0]), keys.subnet(p.pools[1])),
           older=lambda p: {"gateway": None}),
    # Only whether it has changed counts.
    Family("subnet_guard", lambda p: (keys.SUBNET_GUARD, keys.fence(p.hosts_ids[0])),
           older=lambda p: {}, silent=ALL_KINDS),
    Family("address", lambda p: (keys.address(p.pools[0], p.addresses[0]),
                                 keys.address(p.pools[0], p.addresses[1])),
           older=lambda p: {"endpoint": ""}, also_named=lambda p: [p.endpoints[0][:12]]),
    # Read only when dockerd repeats the very request that it was written for.
    Family("owner", lambda p: (keys.owner(p.pools[0], p.hosts_ids[0], "a"),
                               keys.owner(p.pools[0], p.hosts_ids[1], "c")),
           older=lambda p: {"address": "10.50.9.9"}, silent=ALL_KINDS),
    Family("service", lambda p: (keys.service(p.networks[0], p.vips[0]),
                                 keys.service(p.networks[0], p.vips[1])),
           older=lambda p: {"backends": [str(p.other_task)]}),
    # Hints among hosts, written only while something is missing; whoever still wants to know asks
    # again, and an answer counts only for what is missing in a list of then, too.
    Family("question", lambda p: (keys.question(p.hosts_ids[0]), keys.question(p.hosts_ids[1])),
           older=lambda p: {"revision": 1}, silent=ALL_KINDS, hint={"revision": 1}),
    Family("answer", lambda p: (keys.answer(p.hosts_ids[0]), keys.answer(p.hosts_ids[1])),
           older=lambda p: {"revision": 1}, silent=ALL_KINDS,
           hint={"revision": 1, "underlay": None}),
    Family("services_question", lambda p: (keys.SERVICES_QUESTION, keys.question(p.hosts_ids[0])),
           older=lambda p: {"revision": 1}, silent=ALL_KINDS, hint={"revision": 1}),
    # Another manager, or the same one again, takes the swarm over: that is what it is for.
    Family("publisher", lambda p: (keys.publisher(p.swarms[0]), keys.publisher(p.swarms[1])),
           older=lambda p: {"host": p.hosts_ids[2]},
           silent=frozenset({Kind.DELETED, Kind.OLDER, Kind.SWAPPED})),
)}

Values = Mapping[str, bytes]  # of all records, by key
Changes = dict[str, bytes | None]  # what is written; None: deleted


def spoilt(family: Family, kind: Kind, places: Places, values: Values) -> Changes:
    """Return what spoils the record.  Error: AssertionError (there is none)."""
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
        # Its fields may mean anything by then.
        return {key: json.dumps({"schema": records.SCHEMA + 1, "write": fields["write"],
                                 "new": {}}).encode()}
    fields = {name: value for name, value in (fields | family.older(places)).items()
              if value is not ...}
    return {key: json.dumps(fields | {"write": "0" * 16}).encode()}


def same(one: bytes | None, other: bytes | None) -> bool:
    """Say whether two values say the same, whoever wrote them."""
    return _said(one) == _said(other)


def _said(value: bytes | None) -> object:
    try:
        fields = json.loads(value or b"null")
    except ValueError:
        return value
    if not isinstance(fields, dict):
        return fields
    # What a manager has entered again says so, and not who had asked for it, and how.
    fields.pop("entered", None)
    if "host" in fields:  # a publisher's answer to whoever misses services
        fields.pop("revision", None)
    for holder, hold in fields.get("holds", {}).items():
        hold.pop("request")
        if holder == GLOBAL_HOLDER:
            hold["owner"] = hold["kind"] = ""
    # Requests of a pool are counted; each has a name that the driver makes up.
    for pool in fields.get("pools", ()):
        pool["requests"] = {who: len(ids) if "swarm" not in who else ids
                            for who, ids in pool["requests"].items()}
    return {name: sorted(each, key=repr) if name == "pools" else each
            for name, each in fields.items() if name != "write"}


# Parts of keys that name no record.
WORDS = {"endpoints", "networks", "fence", "members", "question"}


def names(family: Family, places: Places) -> list[str]:
    """Return what a report may call the record: its key, ids in full or shortened, an address."""
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
    """Of the product each family once, and each kind at each time with several of them."""
    kinds, times = list(Kind), list(When)
    chosen = [Case(times[number % len(times)], family, kinds[number % len(kinds)])
              for number, family in enumerate(FAMILIES)]
    return sorted(chosen, key=lambda case: times.index(case.when))


# What keys.py can spell, found by calling it: the table above must have it all, but for what a
# write is tried with: nobody ever makes it.
NEVER_MADE = {"trial"}

_SAMPLES: dict[object, object] = {
    int: 7, str: "x", Vni: Vni(7), HostId: HostId("b" * 32), EndpointId: EndpointId("e" * 64),
    NetworkId: NetworkId("n" * 64), NetworkKey: NetworkKey("pool:10.0.0.0/16"),
    IPv4Address: IPv4Address("10.0.0.1"), IPv4Address | IPv6Address: IPv4Address("10.0.0.1")}


def spelled() -> Iterator[tuple[str, str]]:
    """Name of the function or constant, and a key that it spells; prefixes are none."""
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
    """What was said since: warnings and errors of logs, lines of status, answers to dockerd."""

    lines: list[str] = field(default_factory=list)

    def name(self, wanted: list[str]) -> bool:
        return any(name in line for line in self.lines for name in wanted)
