"""Tests store/kv's KeyValue with the fake and with a real etcd."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.kv.protocol import Delete, Holds, OutcomeUnknown, Put, Unchanged
from driver.store.kv.transaction import Transaction
from driver.work.tally import Tally
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.run.wait import wait_until
from tests.support.world.etcd import Etcd, free_port

Kv = FakeKeyValue | EtcdKeyValue


def put(kv: Kv, key: str, value: bytes = b"v") -> None:
    assert kv.commit([], [Put(key, value)])


def test_absent_key(kv: Kv) -> None:
    assert kv.get("/a/none") is None
    assert kv.range("/a/").entries == ()
    assert kv.count("/a/") == 0


def test_put_get_delete(kv: Kv) -> None:
    put(kv, "/a/1", b"\x00\xff")
    entry = kv.get("/a/1")
    assert entry is not None
    assert (entry.key, entry.value) == ("/a/1", b"\x00\xff")
    assert entry.mod_revision > 0
    assert kv.commit([], [Delete("/a/1"), Delete("/a/never")])
    assert kv.get("/a/1") is None


def test_range_is_of_the_prefix_in_key_order(kv: Kv) -> None:
    for key in ("/a/2", "/a/10", "/a/1", "/a0", "/b/1", "/a"):
        put(kv, key)
    listing = kv.range("/a/")
    assert [e.key for e in listing.entries] == ["/a/1", "/a/10", "/a/2"]
    assert not listing.more
    assert listing.revision >= max(e.mod_revision for e in listing.entries)
    assert [e.key for e in kv.range("/a/", start="/a/10").entries] == ["/a/10", "/a/2"]
    assert [e.key for e in kv.range("/a/", stop="/a/2").entries] == ["/a/1", "/a/10"]
    assert kv.count("/a/", start="/a/10", stop="/a/2") == 1


def test_range_limit_and_keys_only(kv: Kv) -> None:
    for n in range(5):
        put(kv, f"/a/{n}", b"value")
    listing = kv.range("/a/", limit=2, keys_only=True)
    assert [(e.key, e.value) for e in listing.entries] == [("/a/0", b""), ("/a/1", b"")]
    assert listing.more
    assert not kv.range("/a/", limit=5).more


def test_long_range_is_complete(kv: Kv) -> None:
    for base in range(0, 2100, 100):
        assert kv.commit([], [Put(f"/a/{base + n:05}", b"x") for n in range(100)])
    assert [e.key for e in kv.range("/a/").entries] == [f"/a/{n:05}" for n in range(2100)]
    assert kv.count("/a/") == 2100
    assert len(kv.range("/a/", limit=1500).entries) == 1500


def test_commit_compares(kv: Kv) -> None:
    assert kv.commit([Unchanged("/a/1", 0)], [Put("/a/1", b"one")])
    assert not kv.commit([Unchanged("/a/1", 0)], [Put("/a/1", b"two")])
    entry = kv.get("/a/1")
    assert entry is not None
    assert entry.value == b"one"
    assert kv.commit([Unchanged("/a/1", entry.mod_revision)], [Put("/a/1", b"two")])
    assert not kv.commit([Unchanged("/a/1", entry.mod_revision)], [Put("/a/1", b"three")])
    assert kv.commit([Holds("/a/1", b"two")], [Put("/a/1", b"four")])
    assert not kv.commit([Holds("/a/1", b"two")], [Delete("/a/1")])
    assert not kv.commit([Holds("/a/none", b"")], [Delete("/a/1")])


def test_commit_is_all_or_nothing(kv: Kv) -> None:
    put(kv, "/a/taken")
    assert not kv.commit([Unchanged("/a/free", 0), Unchanged("/a/taken", 0)],
                         [Put("/a/free", b""), Delete("/a/taken")])
    assert [e.key for e in kv.range("/a/").entries] == ["/a/taken"]


def test_one_revision_for_a_commit(kv: Kv) -> None:
    assert kv.commit([], [Put("/a/1", b""), Put("/a/2", b"")])
    first, second = kv.range("/a/").entries
    assert first.mod_revision == second.mod_revision


def test_only_one_of_many_creates_a_key(kv: Kv) -> None:
    won: list[int] = []

    def create(n: int) -> None:
        if kv.commit([Unchanged("/a/x", 0)], [Put("/a/x", str(n).encode())]):
            won.append(n)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = kv.get("/a/x")
    assert entry is not None
    assert [entry.value] == [str(n).encode() for n in won]


def test_lease_kept_alive_then_left_to_expire(kv: Kv) -> None:
    lease = kv.lease(2)
    assert kv.commit([], [Put("/a/live", b"", lease.id), Put("/a/stays", b"")])
    assert lease.keep_alive()
    assert kv.keep_alive(lease.id)
    assert kv.lease_left_s(lease.id) in (1, 2)
    assert kv.get("/a/live") is not None
    wait_until(lambda: kv.get("/a/live") is None, 20, "the key goes")
    assert kv.get("/a/stays") is not None
    assert not lease.keep_alive()
    assert not kv.keep_alive(lease.id)
    assert kv.lease_left_s(lease.id) <= 0


def test_lease_revoked(kv: Kv) -> None:
    lease = kv.lease(60)
    assert kv.commit([], [Put("/a/live", b"", lease.id)])
    lease.revoke()
    assert kv.get("/a/live") is None
    lease.revoke()


# The real one only: faults that the fake cannot have.

def each_call(kv: EtcdKeyValue) -> list[Callable[[], object]]:
    return [lambda: kv.get("/a/1"), lambda: kv.range("/a/"), lambda: kv.count("/a/"),
            lambda: kv.commit([], [Put("/a/1", b"")]), lambda: kv.stream("/a/"),
            lambda: kv.now("/a/"), lambda: kv.lease(10)]


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_every_call_fails_in_time_and_works_again(own_etcd: Etcd, fault: str) -> None:
    with EtcdKeyValue(own_etcd.settings(), call_s=0.5) as kv:
        put(kv, "/a/1")
        if fault == "stopped":
            own_etcd.stop()
        else:
            own_etcd.freeze()
        for call in each_call(kv):
            with pytest.raises(StoreUnavailable, match="etcd"):
                call()
        if fault == "stopped":
            own_etcd.start()
        else:
            own_etcd.thaw()
        wait_until(lambda: _works(kv), 30, "the client works again")
        entry = kv.get("/a/1")
        assert entry is not None


def test_calls_are_counted_by_operation_and_result(own_etcd: Etcd) -> None:
    tally = Tally()
    with EtcdKeyValue(own_etcd.settings(), call_s=0.5, tally=tally) as kv:
        put(kv, "/a/1")
        kv.get("/a/1")
        kv.range("/a/")
        kv.lease(10).keep_alive()
        own_etcd.stop()
        with pytest.raises(StoreUnavailable):
            kv.get("/a/1")
    assert {names: found.count for names, found in tally.read().items()} == {
        ("write", "ok"): 1, ("read", "ok"): 1, ("list", "ok"): 1, ("lease_grant", "ok"): 1,
        ("lease_renew", "ok"): 1, ("read", "error"): 1}
    assert all(0 < found.sum_s < 60 for found in tally.read().values())


def _works(kv: EtcdKeyValue) -> bool:
    try:
        return kv.commit([], [Put("/a/2", b"")])
    except StoreUnavailable:
        return False


def test_second_endpoint_serves_when_the_first_is_dead_or_frozen(
        own_etcd: Etcd, etcd: Etcd) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with EtcdKeyValue(EtcdSettings(endpoints=(dead, etcd.url))) as kv:
        put(kv, "/a/failover", b"1")
        assert kv.get("/a/failover") is not None
        kv.commit([], [Delete("/a/failover")])
    own_etcd.freeze()
    with EtcdKeyValue(EtcdSettings(endpoints=(own_etcd.url, etcd.url))) as kv:
        put(kv, "/a/failover", b"2")
        kv.commit([], [Delete("/a/failover")])


def test_second_endpoint_serves_when_the_first_freezes(own_etcd: Etcd, etcd: Etcd) -> None:
    with EtcdKeyValue(EtcdSettings(endpoints=(own_etcd.url, etcd.url))) as kv:
        put(kv, "/a/x", b"on the first")
        own_etcd.freeze()
        # The first write may have gone to the frozen member: its outcome is unknown, so it is not
        # repeated.
        with suppress(OutcomeUnknown):
            put(kv, "/a/failover", b"on the first, perhaps")
        put(kv, "/a/failover", b"on the second")
        assert kv.get("/a/failover") is not None
        kv.commit([], [Delete("/a/failover")])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("calls", [{1}, {1, 2}, {1, 3}])
def test_transaction_happens_once_or_says_that_it_is_unknown(when: str, calls: set[int]) -> None:
    kv = FakeKeyValue()
    faulty = FaultyKeyValue(kv, lambda call: when if call in calls else "")
    change = Transaction()
    change.as_read("/a/1", None)
    change.put("/a/1", b"mine")
    try:
        assert change.commit(faulty)
    except StoreUnavailable:
        assert calls != {1}
    else:
        entry = kv.get("/a/1")
        assert entry is not None
        assert (entry.value, entry.mod_revision) == (b"mine", kv.store.revision)


def test_transaction_that_lost_is_not_taken_for_done() -> None:
    kv = FakeKeyValue()
    put(kv, "/a/1", b"theirs")
    faulty = FaultyKeyValue(kv, lambda call: "before" if call == 1 else "")
    change = Transaction()
    change.as_read("/a/1", None)
    change.put("/a/1", b"mine")
    assert not change.commit(faulty)
