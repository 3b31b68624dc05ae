"""Tests summaries in etcd: what is written is read, it is bounded, and bad ones are refused."""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path as File
from typing import Any

import pytest

from driver.errors import StoreUnavailable, UnsupportedRecord
from driver.model import HostId
from driver.services.ports import (
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
from driver.store.format import keys, records, summaries
from driver.store.kv.protocol import Change, Entry, Put
from driver.store.summaries import TTL_S, EtcdSummaries, WatcherListener
from tests.support.fakes.kv import FakeKeyValue

ME, OTHER = HostId("a" * 32), HostId("b" * 32)
A, B = End(7, ip_address("10.32.0.2")), End(7, ip_address("fd00::6"))
WHOLE = Summary(
    OTHER, "1.2", 2.5, True,
    (NetworkSeen("n" * 64, 7, "app", (PoolFill("10.32.0.0/16", 2, 65533),), "auto", True),),
    (EndpointSeen("e" * 12, 7, "web", A.address, B.address, True),
     EndpointSeen("f" * 12, 7, "x", None, None, False)),
    (PairRate(A, B, Path.HOST, 3, 0.5, 12.3, 1e9),
     PairRate(A, End(0, ip_address("1.1.1.1")), Path.OUTSIDE, 1, 0, 0, 0)),
    (ReasonRate("spoofed_source", "drop", 0.25, 17),), (PathRate(Path.HOST, 3, 0.5, 12.3, 1e9),),
    ("not all of web: it is gone",), 4, 5)


def entry(value: bytes) -> Entry:
    return Entry(keys.summary(OTHER), value, 1)


def test_what_is_written_is_read() -> None:
    assert summaries.decode(entry(summaries.encode(WHOLE))) == WHOLE


def test_it_is_bounded_and_what_is_cut_is_counted() -> None:
    long = "\x01" * 10_000  # six bytes each, as JSON
    big = replace(
        WHOLE, version=long, problems=(long,) * 100,
        networks=tuple(replace(WHOLE.networks[0], name=long) for _ in range(1000)),
        endpoints=tuple(replace(WHOLE.endpoints[0], container=long) for _ in range(1000)),
        pairs=tuple(replace(WHOLE.pairs[0], connections=number) for number in range(5000)),
        reasons=WHOLE.reasons * 1000, paths=WHOLE.paths * 4)
    value = summaries.encode(big)
    assert len(value) <= summaries.SUMMARY_BYTES
    found = summaries.decode(entry(value))
    assert len(found.pairs) > 300
    assert found.pairs == big.pairs[:len(found.pairs)]
    assert found.more_pairs == 4 + 5000 - len(found.pairs)
    assert found.more_endpoints == 5 + 1000 - len(found.endpoints)
    assert len(found.endpoints) > 30


def packed(plain: bytes) -> bytes:
    return records.encode({"host": OTHER,
                           "packed": base64.b64encode(zlib.compress(plain)).decode()})


FIELDS: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(
    json.loads(summaries.encode(WHOLE))["packed"])))


def spoilt(**changes: Any) -> bytes:
    """The record with other values of what is packed."""
    return packed(json.dumps({**FIELDS, **changes}).encode())


def outside(**changes: Any) -> bytes:
    """The record with other values of what is not."""
    return json.dumps({**json.loads(summaries.encode(WHOLE)), **changes}).encode()


PAIR = FIELDS["pairs"][0]


@pytest.mark.parametrize("value", [
    b"\x00garbage", b"[]", outside(schema=2), outside(packed="!"), outside(packed="AAAA"),
    outside(packed=7), packed(b"garbage"), packed(b"[]"), packed(b" " * (1 << 20)),
    packed(b"[" * 50_000), spoilt(pairs=[[1, 2]]), spoilt(pairs=7),
    spoilt(pairs=[[*PAIR[:4], "none", *PAIR[5:]]]), spoilt(pairs=[[*PAIR[:1], "x", *PAIR[2:]]]),
    spoilt(pairs=[[-1, *PAIR[1:]]]), spoilt(pairs=[[1 << 24, *PAIR[1:]]]),
    spoilt(pairs=[[*PAIR[:5], 1.5, *PAIR[6:]]]), spoilt(pairs=[[*PAIR[:8], float("nan")]]),
    spoilt(pairs=[[*PAIR[:8], -1]]), spoilt(pairs=[[*PAIR[:8], True]]), outside(host=None),
    spoilt(more=[1]), spoilt(more=[-1, 0]), spoilt(problems=[7]), spoilt(every="2"),
    spoilt(endpoints=[["e", 7, "web", "10.0.0.0/8", None, True]]), spoilt(networks=[[]]),
    spoilt(reasons=[["x", "drop", 1e400, 1]]),
    summaries.encode(WHOLE) + b" " * 2 * summaries.SUMMARY_BYTES],
    ids=itertools.count(1))  # a record has a random part: the values are no names
def test_what_is_bad_is_refused(value: bytes) -> None:
    with pytest.raises(UnsupportedRecord, match=r"/slim/v1/summaries/b{32} in etcd"):
        summaries.decode(entry(value))


@pytest.fixture
def kv() -> FakeKeyValue:
    return FakeKeyValue()


def own_keys(kv: FakeKeyValue) -> list[str]:
    return [each.key for each in kv.range(keys.ROOT).entries]


def end_leases(kv: FakeKeyValue) -> None:
    with kv.store.changed:
        for lease in list(kv.store.leases):
            kv.store.end_lease(lease)


def test_watching_and_telling_leave_nothing(kv: FakeKeyValue) -> None:
    one, other = EtcdSummaries(kv, ME), EtcdSummaries(kv, OTHER)
    one.watch(again=False)
    other.put(WHOLE)
    assert own_keys(kv) == [keys.summary(OTHER), keys.watching(ME)]
    told = one.all({})[OTHER]
    assert told.summary == WHOLE
    again = one.all({OTHER: told.revision})[OTHER]
    assert (again.revision, again.summary) == (told.revision, None)
    one.unwatch()
    other.withdraw()
    one.unwatch()
    assert own_keys(kv) == []
    assert kv.store.leases == {}


def test_watching_on_writes_nothing_but_when_it_was_lost(kv: FakeKeyValue) -> None:
    now_s = 0.0
    one = EtcdSummaries(kv, ME, clock=lambda: now_s)
    one.watch(again=False)
    before = kv.store.revision
    for _ in range(5):
        now_s += TTL_S / 2
        one.watch(again=False)
    assert kv.store.revision == before
    one.watch(again=True)
    assert kv.store.revision == before + 1
    # The lease is gone, and with it the key.
    end_leases(kv)
    now_s += TTL_S
    one.watch(again=False)
    assert own_keys(kv) == [keys.watching(ME)]


def test_one_lease_for_all_summaries_of_a_host(kv: FakeKeyValue) -> None:
    one = EtcdSummaries(kv, OTHER)
    for _ in range(3):
        one.put(WHOLE)
    assert len(kv.store.leases) == 1
    end_leases(kv)
    with pytest.raises(StoreUnavailable):
        one.put(WHOLE)
    one.put(WHOLE)
    assert own_keys(kv) == [keys.summary(OTHER)]


def test_many_hosts_are_read_in_pages(kv: FakeKeyValue) -> None:
    hosts = [HostId(f"{number:032x}") for number in range(50)]
    for host in hosts:
        EtcdSummaries(kv, host).put(replace(WHOLE, host=host))
    found = EtcdSummaries(kv, ME).all({})
    assert list(found) == hosts
    assert all(each.summary is not None for each in found.values())


@pytest.mark.parametrize("value", [b"\x00", outside(schema=2), summaries.encode(WHOLE)],
                         ids=["garbage", "newer", "swapped"])
def test_a_bad_one_cuts_nothing(kv: FakeKeyValue, value: bytes) -> None:
    EtcdSummaries(kv, OTHER).put(WHOLE)
    third = HostId("c" * 32)
    kv.commit([], [Put(keys.summary(third), value)])
    found = EtcdSummaries(kv, ME).all({})
    assert found[OTHER].summary == WHOLE
    assert found[third].summary is None
    assert keys.summary(third) in found[third].problem




def test_who_watches_whatever_the_value_says() -> None:
    heard: list[set[HostId]] = []
    listener = WatcherListener(lambda hosts: heard.append(set(hosts)))
    listener.listed([Entry(keys.watching(ME), records.encode({}), 1)], 1)
    listener.changed([Change(keys.watching(OTHER), b"\x00garbage", 2)])
    listener.changed([Change(keys.watching(ME), None, 3)])
    listener.listed([], 4)
    assert heard == [{ME}, {ME, OTHER}, {OTHER}, set()]


def test_the_documentation_has_the_keys_and_their_fields(project: File) -> None:
    text = (project / "docs/top.md").read_text()
    for name in ("watching/<host>", "summaries/<host>", "host", "packed", *FIELDS):
        assert f"`{name}`" in text, name
