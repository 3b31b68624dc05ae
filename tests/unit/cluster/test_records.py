"""Tests the cluster's records in etcd: read back as written; what is spoilt is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.cluster.etcd.steward import Steward
from driver.cluster.model import ClusterHost, Role
from driver.cluster.records import PREVIOUS_TOKENS, ClusterConfig, ClusterRecords, JoinSecret
from driver.errors import StoreUnavailable, UnsupportedRecord
from driver.store.format import keys
from driver.store.kv.protocol import Put
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.unit.cluster.world import FakeEtcd, SimCluster

HOST = ClusterHost("a" * 32, "one", "192.0.2.1", 1.0, Role.MEMBER, "1.0", 2.0)
CONFIG = ClusterConfig("c" * 32, "test", 3, 86400.0)
SECRET = JoinSecret(b"0123456789abcdef", 5.0, ("old",))


@pytest.fixture
def kv() -> FakeKeyValue:
    return FakeKeyValue()


@pytest.fixture
def records(kv: FakeKeyValue) -> ClusterRecords:
    made = ClusterRecords(kv)
    made.put_config(CONFIG)
    made.put_secret(SECRET)
    made.change_host(HOST.id, lambda _: HOST)
    return made


def test_they_are_read_as_they_were_written(records: ClusterRecords) -> None:
    assert records.config() == CONFIG
    assert records.secret() == SECRET
    assert records.host(HOST.id) == HOST
    younger = replace(HOST, id="b" * 32, joined_s=9.0, leaving=True, client_only=True,
                      role=Role.CLIENT)
    records.change_host(younger.id, lambda _: younger)
    assert records.hosts() == [HOST, younger]
    assert "0123456789abcdef" not in repr(records.secret())


def test_none_is_there(kv: FakeKeyValue) -> None:
    empty = ClusterRecords(kv)
    assert (empty.config(), empty.secret(), empty.host("x"), empty.hosts(), empty.alive()) == (
        None, None, None, [], frozenset())


def test_so_many_names_of_old_tokens_are_kept(records: ClusterRecords) -> None:
    records.put_secret(replace(SECRET, previous=tuple(map(str, range(100)))))
    found = records.secret()
    assert found is not None
    assert found.previous == tuple(map(str, range(100)))[-PREVIOUS_TOKENS:]


VALUES = [None, True, "", "x", "1e999", 7, -1.5, [], {}, [None], "\x00", float("nan"),
          float("inf"), -float("inf"), 10 ** 400]
READ: dict[str, tuple[str, dict[str, object], Callable[[ClusterRecords], object]]] = {
    "config": (keys.CLUSTER_CONFIG, asdict(CONFIG), ClusterRecords.config),
    "token": (keys.CLUSTER_TOKEN, {"secret": SECRET.secret.hex(), "until_s": 5.0,
                                   "previous": ["old"]}, ClusterRecords.secret),
    "host": (keys.cluster_host(HOST.id), asdict(HOST), lambda each: each.host(HOST.id)),
    "hosts": (keys.cluster_host(HOST.id), asdict(HOST), ClusterRecords.hosts),
    "a change": (keys.cluster_host(HOST.id), asdict(HOST),
                 lambda each: each.change_host(HOST.id, lambda _: None)),
    "a role": (keys.cluster_host(HOST.id), asdict(HOST),
               lambda each: each.set_role(HOST.id, Role.CLIENT))}


@pytest.mark.parametrize("value", [
    b"", b"garbage", b"[]", b"null", b"{}", b'"x"', b"\xff\xfe", b'{"schema":2}',
    b'{"schema":1}', b'{"schema":true}', b"[" * 100000, b'{"schema":1,"id":'])
@pytest.mark.parametrize("name", READ)
def test_what_is_no_record_is_refused_and_left_alone(
        records: ClusterRecords, kv: FakeKeyValue, name: str, value: bytes) -> None:
    key, _, read = READ[name]
    assert kv.commit([], [Put(key, value)])
    with pytest.raises(UnsupportedRecord, match=key):
        read(records)
    entry = kv.get(key)
    assert entry is not None
    assert entry.value == value


@pytest.mark.parametrize("name", READ)
def test_each_field_spoilt_in_each_way(records: ClusterRecords, kv: FakeKeyValue, name: str
                                       ) -> None:
    """Either it means something, or the error names the key; never another kind of error."""
    key, fields, read = READ[name]
    refused = 0
    for field in fields:
        for spoilt in [*VALUES, ...]:
            value = {"schema": 1, "write": "x", **fields, field: spoilt}
            if spoilt is ...:
                del value[field]
            content = json.dumps(value).encode()
            assert kv.commit([], [Put(key, content)])
            try:
                read(records)
            except UnsupportedRecord as error:
                refused += 1
                assert key in str(error)  # noqa: PT017 - many may be read
                entry = kv.get(key)
                assert entry is not None
                assert entry.value == content
    assert refused > 3 * len(fields)


def test_another_hosts_record_is_refused(records: ClusterRecords, kv: FakeKeyValue) -> None:
    entry = kv.get(keys.cluster_host(HOST.id))
    assert entry is not None
    other = keys.cluster_host("b" * 32)
    assert kv.commit([], [Put(other, entry.value)])
    for read in (lambda: records.host("b" * 32), records.hosts):
        with pytest.raises(UnsupportedRecord, match=other):
            read()


@given(st.sampled_from(["h1", "h2", "h3"]), st.sampled_from(VALUES),
       st.sampled_from(["address", "role", "joined_s", "id"]))
def test_the_steward_does_nothing_beside_a_record_that_it_cannot_read(
        which: str, spoilt: object, field: str) -> None:
    cluster = SimCluster.begun(3)
    key = keys.cluster_host(which)
    entry = cluster.kv.get(key)
    assert entry is not None
    content = json.dumps({**json.loads(entry.value), field: spoilt}).encode()
    assert cluster.kv.commit([], [Put(key, content)])
    before = list(cluster.etcd.listed)
    try:
        ClusterRecords(cluster.kv).hosts()
    except UnsupportedRecord:
        with pytest.raises(UnsupportedRecord, match=key):
            Steward(ClusterRecords(cluster.kv), cluster.etcd).act()
        assert cluster.etcd.listed == before


def test_somebody_was_faster(kv: FakeKeyValue, records: ClusterRecords) -> None:
    seen = []

    def change(host: ClusterHost | None) -> ClusterHost | None:
        assert host is not None
        seen.append(host.name)
        if len(seen) == 1:
            records.change_host(HOST.id, lambda known: known and replace(known, name="other"))
        return replace(host, leaving=True)

    assert records.change_host(HOST.id, change) == replace(HOST, name="other", leaving=True)
    assert seen == ["one", "other"]


def test_somebody_is_always_faster(kv: FakeKeyValue, records: ClusterRecords) -> None:
    def change(host: ClusterHost | None) -> ClusterHost | None:
        records.change_host(HOST.id, lambda known: known and replace(
            known, joined_s=known.joined_s + 1))
        return host and replace(host, leaving=True)

    with pytest.raises(StoreUnavailable, match="concurrent"):
        records.change_host(HOST.id, change)


def test_a_host_that_is_not_on_record_gets_no_role(records: ClusterRecords) -> None:
    records.set_role("b" * 32, Role.MEMBER)
    assert records.host("b" * 32) is None


def test_signs_of_life_end_with_their_lease(kv: FakeKeyValue, records: ClusterRecords) -> None:
    lease = kv.lease(30)
    records.tell_alive(HOST.id, lease.id)
    assert records.alive() == {HOST.id}
    lease.revoke()
    assert records.alive() == frozenset()
    for each in ("x", "y"):
        records.tell_alive(each, 0)
    records.forget_alive()
    assert records.alive() == frozenset()


def test_etcd_is_away(kv: FakeKeyValue, records: ClusterRecords) -> None:
    kv.store.away = True
    for read in (records.config, records.secret, records.hosts, records.alive,
                 lambda: records.set_role(HOST.id, Role.CLIENT)):
        with pytest.raises(StoreUnavailable):
            read()
    with pytest.raises(StoreUnavailable):
        Steward(ClusterRecords(FaultyKeyValue(kv, lambda _: "before")), FakeEtcd()).act()
