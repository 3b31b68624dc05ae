"""Tests that a host neither reads nor writes another cluster's etcd (the fake, a real etcd)."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.errors import StoreUnavailable
from driver.model import Cluster
from driver.state import host
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys, records
from driver.store.hosts.cluster import AGAIN_S, ClusterKeyValue
from driver.store.kv.protocol import Delete, Entry, Put
from tests.support.fakes.kv import FakeKeyValue

Kv = FakeKeyValue | EtcdKeyValue
KEY = keys.ROOT + "something"


class Member:
    """A host's access to etcd, and what it keeps of the cluster."""

    def __init__(self, kv: Kv, folder: Path, name: str) -> None:
        self.now_s = 0.0
        self.file = host.ClusterFile(folder / name)
        self.etcd = 1  # the etcd that answers
        self.kv = ClusterKeyValue(
            kv, self.file, lambda: Cluster(host.new_cluster().id, name),
            identity=lambda: self.etcd, clock=lambda: self.now_s)

    def put(self, text: str) -> int:
        return self.kv.commit([], [Put(KEY, text.encode())])

    def settled(self) -> int:
        """Write, even after others have rewritten the cluster's key."""
        done = self.put("x")
        self.now_s += AGAIN_S
        return done or self.put("x") or self.put("x")


def name_of(kv: Kv) -> Cluster:
    entry = kv.get(keys.CLUSTER)
    assert entry is not None
    return records.decode(entry, records.cluster)


def write(kv: Kv, cluster: Cluster) -> None:
    value = records.encode(records.cluster_fields(cluster))
    assert kv.commit([], [Put(keys.CLUSTER, value)])


@pytest.fixture
def two(kv: Kv, tmp_path: Path) -> tuple[Member, Member]:
    made = Member(kv, tmp_path, "one"), Member(kv, tmp_path, "two")
    for member in made:
        assert member.put("first")
    return made


OTHER = Cluster("f" * 32, "elsewhere")


def test_the_first_host_begins_it_and_all_keep_it(kv: Kv, two: tuple[Member, Member]) -> None:
    first, second = two
    assert first.file.get() == second.file.get() == name_of(kv)
    assert name_of(kv).name == "one"


def test_a_host_starts_beside_another_cluster(
        kv: Kv, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(kv, OTHER)
    member = Member(kv, tmp_path, "moved")
    member.file.put(Cluster("a" * 32, "home"))
    for ask in (lambda: member.put("x"), lambda: member.kv.get(KEY), lambda: member.kv.count(KEY),
                lambda: member.kv.range(KEY), lambda: member.kv.stream(KEY),
                lambda: member.kv.lease(5)):
        with pytest.raises(StoreUnavailable) as refused:
            ask()
        assert all(part in str(refused.value) for part in (
            "f" * 12 + " (begun by elsewhere)", "a" * 12 + " (begun by home)", "adopt-cluster"))
        member.now_s += AGAIN_S
    assert kv.get(KEY) is None
    assert caplog.text.count("adopt-cluster") == 1
    member.file.put(OTHER)  # as `slim adopt-cluster` does
    assert member.put("x")


def test_it_becomes_another_clusters_while_drivers_run(kv: Kv, two: tuple[Member, Member]) -> None:
    """Only the key has changed: from the first write on, none succeeds."""
    member, own = two[0], name_of(kv)
    write(kv, OTHER)
    assert member.put("late") == 0
    member.now_s += AGAIN_S
    with pytest.raises(StoreUnavailable, match="begun by elsewhere"):
        member.put("later")
    entry = kv.get(KEY)
    assert isinstance(entry, Entry)
    assert entry.value not in (b"late", b"later")
    write(kv, own)
    member.now_s += AGAIN_S
    assert member.put("again")


def test_another_etcd_answers(kv: Kv, two: tuple[Member, Member]) -> None:
    """The host believes nothing that it says."""
    member = two[0]
    write(kv, OTHER)
    assert member.kv.get(KEY)  # the same etcd: reads do not compare
    member.etcd = 2
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="begun by elsewhere"):
            member.kv.get(KEY)


def test_a_restored_one_is_known_by_its_key(two: tuple[Member, Member]) -> None:
    member = two[0]
    member.etcd = 2
    assert member.put("x")
    assert not member.kv.lost_data


def test_lost_data_is_no_other_cluster(
        kv: Kv, two: tuple[Member, Member], caplog: pytest.LogCaptureFixture) -> None:
    own = name_of(kv)
    assert kv.commit([], [Delete(keys.CLUSTER)])
    for member in two:
        member.now_s += AGAIN_S
        assert member.settled()
    assert name_of(kv) == own
    assert two[0].kv.lost_data
    assert "has it lost its data" in caplog.text


@pytest.mark.parametrize("value", [b"garbage", b'{"schema":2,"write":"x","id":"1","name":"n"}'])
def test_a_key_that_cannot_be_read(kv: Kv, two: tuple[Member, Member], tmp_path: Path, value: bytes
                                   ) -> None:
    """A driver that knows this etcd goes on; one that starts cannot tell whose it is, and waits."""
    assert kv.commit([], [Put(keys.CLUSTER, value)])
    two[0].now_s += AGAIN_S
    assert two[0].settled()
    fresh = Member(kv, tmp_path, "one")
    with pytest.raises(StoreUnavailable, match="cannot be told"):
        fresh.put("x")
    entry = kv.get(keys.CLUSTER)
    assert entry is not None
    assert entry.value == value
