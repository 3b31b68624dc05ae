"""Writes that etcd did not answer are fenced off, and a release tried again ends one hold only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest

from driver.errors import StoreUnavailable
from driver.services.addresses.service import AddressService
from driver.store.format import keys
from driver.store.hosts.fence import FencedKeyValue
from driver.store.kv.protocol import Compare, Delete, Entry, Op, OutcomeUnknown, Put
from driver.store.kv.transaction import Transaction
from tests.support.fakes.kv import FakeKeyValue
from tests.support.world.addressing import host_id, service

POOL = "10.77.0.0/28"
HOST = host_id(1)


class LateKeyValue(FakeKeyValue):
    """Keeps the next write back, as a frozen member of the cluster does, until `deliver`."""

    def __init__(self) -> None:
        super().__init__()
        self.keep_next = False
        self._kept: list[tuple[Sequence[Compare], Sequence[Op]]] = []

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        if self.keep_next:
            self.keep_next = False
            self._kept.append((compares, ops))
            raise OutcomeUnknown("kept back")
        return super().commit(compares, ops)

    def deliver(self) -> list[bool]:
        """Whether each had an effect."""
        return [bool(super(LateKeyValue, self).commit(*kept)) for kept in self._kept]


def use(on: AddressService) -> str:
    return on.request_pool("slim-local", POOL, "", v6=False, options={}).pool_id


@pytest.mark.parametrize("fenced", [True, False])
def test_a_late_write_comes_to_nothing(fenced: bool) -> None:
    kv = LateKeyValue()
    on = service(FencedKeyValue(kv, HOST) if fenced else kv)
    pool_id = use(on)
    kv.keep_next = True
    address = str(on.request_address(pool_id, "", options={}).ip)
    on.release_address(pool_id, address)
    # Without the fence the address would now be held by nobody, for good.
    assert kv.deliver() == [not fenced]
    assert kv.count(keys.ADDRESSES) == (0 if fenced else 1)


def test_nothing_is_read_before_the_fence_is_raised() -> None:
    kv = LateKeyValue()
    fenced = FencedKeyValue(kv, HOST)
    kv.keep_next = True
    with pytest.raises(OutcomeUnknown):
        fenced.commit([], [Put("/a", b"1")])
    kv.store.away = True
    for read in (fenced.get, fenced.range, fenced.count):
        with pytest.raises(StoreUnavailable):
            read("/b")
    kv.store.away = False
    kv.keep_next = True  # now it is the raising that comes late
    with pytest.raises(OutcomeUnknown):
        fenced.get("/a")
    assert fenced.get("/a") is None
    assert fenced.commit([], [Put("/b", b"1")])
    assert kv.deliver() == [False, True]
    # The late one has moved the fence: the next write finds out, the one after it goes through.
    assert [bool(fenced.commit([], [Put("/a", b"2")])) for _ in range(2)] == [False, True]


def test_a_write_decided_on_before_is_decided_anew() -> None:
    kv = LateKeyValue()
    fenced = FencedKeyValue(kv, HOST)
    assert fenced.commit([], [Put("/a", b"1")])
    other = Transaction()
    found = fenced.get("/a")
    other.as_read("/a", found)
    other.put("/a", b"2")
    kv.keep_next = True
    assert other.commit(fenced)  # kept back, fenced off, tried again
    assert kv.deliver() == [False]
    assert fenced.commit([], [Delete("/a")])


def test_whoever_reads_while_the_fence_is_raised_waits() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(LateKeyValue):
        def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
            if isinstance(ops[0], Put) and ops[0].key == keys.fence(HOST):
                entered.set()
                assert leave.wait(10)
            return super().commit(compares, ops)

    kv = Slow()
    fenced = FencedKeyValue(kv, HOST)
    kv.keep_next = True
    with pytest.raises(OutcomeUnknown):
        fenced.commit([], [Put("/a", b"1")])
    read: list[Entry | None] = []

    def reader() -> None:
        read.append(fenced.get("/a"))

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert read == []
    leave.set()
    for thread in threads:
        thread.join()
    assert read == [None, None]


class Unconfirmed(FakeKeyValue):
    """Does one write and does not say so; then something happens meanwhile."""

    def __init__(self, kv: FakeKeyValue, meanwhile: Callable[[], object], deaf: bool) -> None:
        super().__init__(kv.store)
        self._meanwhile: Callable[[], object] | None = meanwhile
        self._deaf = deaf

    def get(self, key: str) -> Entry | None:
        if self._meanwhile is None and self._deaf:
            self._deaf = False
            raise StoreUnavailable("deaf")
        return super().get(key)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        done = super().commit(compares, ops)
        if self._meanwhile is None:
            return done
        self._meanwhile()
        self._meanwhile = None
        raise OutcomeUnknown("done, but not answered")


@pytest.mark.parametrize("deaf", [True, False])
def test_a_release_never_ends_a_later_hold(deaf: bool) -> None:
    """It is done but not confirmed, and its address is given to the same host again at once."""
    kv = FakeKeyValue()
    before = service(kv)
    pool_id = use(before)
    address = str(before.request_address(pool_id, "", options={}).ip)
    on = service(Unconfirmed(
        kv, lambda: before.request_address(pool_id, address, options={}), deaf))
    if deaf:
        with pytest.raises(StoreUnavailable):
            on.release_address(pool_id, address)
        on.local_uses()  # settles what was left open
    else:
        on.release_address(pool_id, address)
    assert kv.get(keys.address(POOL, ip_address(address)))
