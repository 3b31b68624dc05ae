"""Tests that no address is ever held twice while several hosts request and release addresses.

etcd is real; members are killed and frozen, and hosts cut off.  The tests record what the hosts
did, and check the record.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.store.address_book import EtcdAddressBook
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys
from driver.store.hosts.fence import FencedKeyValue
from driver.store.kv.protocol import Compare, KeyValue, Op
from driver.store.kv.recall import RecallingKeyValue
from driver.work import doubts
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.faults.history import Event, History, Worker, held, wrong
from tests.support.faults.relay import Relay
from tests.support.run.wait import wait_until
from tests.support.world.addressing import host_id, service
from tests.support.world.etcd import Etcd, EtcdCluster

HOSTS = 4
WORKERS = 3  # per host, up to 3 addresses each
POOL = "10.77.0.0/26"  # 62 addresses: always contended
CALLS = 3000  # at least so many must succeed

Workers = Sequence[Worker]


class Hosts:
    """Address services, each on its own store, with workers and their record."""

    def __init__(self, stores: Sequence[KeyValue], seed: str = "1", pool: str = POOL) -> None:
        self.history = History()
        self._pool = pool
        self.services = [service(kv, n) for n, kv in enumerate(stores)]
        self._pool_ids = [s.request_pool("slim-local", pool, "", v6=False, options={}).pool_id
                          for s in self.services]
        self.workers = [
            Worker(self.history, f"h{n}/{w}", on, pool_id, seed)
            for n, (on, pool_id) in enumerate(zip(self.services, self._pool_ids, strict=True))
            for w in range(WORKERS)]

    @contextmanager
    def working(self) -> Iterator[None]:
        stop = threading.Event()
        threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in self.workers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [w.failure for w in self.workers if w.failure] == []

    def wait_progress(self, calls: int, *hosts: int) -> None:
        """Wait until `calls` more have succeeded, on each of `hosts` if given."""
        goals = {f"h{n}": self.history.done(f"h{n}") + calls for n in hosts} or {
            "": self.history.done() + calls}
        for host, goal in goals.items():
            wait_until(lambda h=host, g=goal: self.history.done(h) >= g,  # type: ignore[misc]
                       60, f"{calls} more calls succeed {host}")

    def stored(self, kv: KeyValue) -> dict[str, str]:
        """Return what the address book has: address -> host."""
        names = {host_id(n): f"h{n}" for n in range(HOSTS)}
        return {str(r.value.address): ",".join(names[holder] for holder in r.value.holds)  # type: ignore[index]
                for r in EtcdAddressBook(kv).reservations(self._pool) if r.value is not None}

    def settled(self, kv: KeyValue) -> dict[str, str]:
        """Return the same once every service has finished what it could not finish earlier."""
        for on in self.services:
            on.local_uses()
        return self.stored(kv)

    def release_all(self) -> None:
        for worker in self.workers:
            while worker.has_any():
                worker.release()
        for on, pool_id in zip(self.services, self._pool_ids, strict=True):
            on.release_pool(pool_id)


def event(worker: str, call: str, phase: str, address: str = "a") -> Event:
    return Event(0, worker, call, phase, address)


def test_the_check_finds_two_holders() -> None:
    right = [event("h0/0", "request", "ok"), event("h0/0", "release", "invoke"),
             event("h1/0", "request", "ok"), event("h0/0", "release", "unknown"),
             event("h2/0", "request", "ok", "b"), event("h3/0", "request", "unknown", "")]
    assert wrong(right) == []
    assert held(right) == {"a": "h1", "b": "h2"}
    assert wrong([*right, event("h3/1", "request", "ok")])
    # A release by a worker that does not have the address changes nothing.
    assert wrong([*right, event("h0/0", "release", "invoke"), event("h3/1", "request", "ok")])


def test_no_address_is_ever_held_twice(etcd: Etcd) -> None:
    with ExitStack() as stack:
        stores = [stack.enter_context(EtcdKeyValue(etcd.settings())) for _ in range(HOSTS)]
        hosts = Hosts(stores)
        with hosts.working():
            hosts.wait_progress(400)
        assert wrong(hosts.history.events) == []
        assert hosts.stored(stores[0]) == held(hosts.history.events)
        hosts.release_all()
        assert stores[0].count(keys.ROOT) == 0


class Forgetful:
    """A store that does not check whether an address is still as it was read."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kv, name)

    def recall(self, key: str) -> None:
        """Remember nothing: unchecked writes of outdated records would hold addresses for ever."""

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        return self._kv.commit(
            [c for c in compares if not c.key.startswith(keys.ADDRESSES)], ops)


def test_a_dropped_compare_is_found() -> None:
    shared = FakeKeyValue()
    hosts = Hosts([Forgetful(shared) for _ in range(HOSTS)])
    with hosts.working():
        wait_until(lambda: wrong(list(hosts.history.events)), 60, "two have one address")


def test_a_forgotten_doubt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts.Doubts, "add", lambda self, key, step, error: None)
    shared = FakeKeyValue()
    # Two calls in a row fail: the commit, after its effect, and its reading back.
    stores = [FaultyKeyValue(shared, lambda _: "") for _ in range(HOSTS)]
    # Recalled as by a driver: FakeKeyValue's own recall is of before, whoever changed it.
    hosts = Hosts(list(map(RecallingKeyValue, stores)),
                  pool="10.77.0.0/18")  # large enough for lost addresses
    for store in stores:
        store.fails = lambda n: "after" if n % 40 < 2 else ""
    with hosts.working():
        hosts.wait_progress(300)
    assert wrong(hosts.history.events) == []
    for store in stores:
        store.fails = lambda _: ""
    assert hosts.settled(shared) != held(hosts.history.events)


class Faults:
    """What happens to the cluster, and to hosts' connections to it, while hosts work."""

    def __init__(self, cluster: EtcdCluster, relays: list[list[Relay]], hosts: Hosts) -> None:
        self._cluster = cluster
        self._relays = relays
        self._hosts = hosts

    def cut(self, host: int, act: Callable[[Relay], None]) -> None:
        """Cut one host off from all members; the others go on."""
        for relay in self._relays[host]:
            act(relay)
        before = self._failed(host)
        self._hosts.wait_progress(60, *(n for n in range(HOSTS) if n != host))
        wait_until(lambda: self._failed(host) > before, 30, f"host {host} notices")
        for relay in self._relays[host]:
            relay.mend()
        self._hosts.wait_progress(10, host)

    def cut_from_one_member(self, member: int) -> None:
        for relays in self._relays:
            relays[member].silence()
        self._hosts.wait_progress(40, *range(HOSTS))
        for relays in self._relays:
            relays[member].mend()

    def kill(self, member: Etcd) -> None:
        member.stop()
        self._hosts.wait_progress(40, *range(HOSTS))
        self._cluster.restart(member)

    def freeze(self, member: Etcd) -> None:
        """Freeze a member; it does what was sent to it once it wakes."""
        member.freeze()
        self._hosts.wait_progress(40, *range(HOSTS))
        member.thaw()
        self._cluster.wait_healthy()

    def kill_all(self) -> None:
        self._cluster.stop()
        before = [self._failed(n) for n in range(HOSTS)]
        wait_until(lambda: all(self._failed(n) > b for n, b in enumerate(before)), 30,
                   "all hosts notice")
        self._cluster.start()
        self._hosts.wait_progress(10, *range(HOSTS))

    def _failed(self, host: int) -> int:
        return sum(count for name, count in list(self._hosts.history.counts.items())
                   if name.startswith(f"h{host}/") and name.endswith((" fail", " unknown")))


def test_nor_while_members_die_and_hosts_are_cut_off(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(EtcdCluster(tmp_path))
        relays = [[stack.enter_context(Relay("127.0.0.1", member.port))
                   for member in cluster.members] for _ in range(HOSTS)]
        direct = stack.enter_context(EtcdKeyValue(cluster.settings()))
        hosts = Hosts([FencedKeyValue(stack.enter_context(EtcdKeyValue(replace(
            cluster.settings(),
            endpoints=tuple(f"http://127.0.0.1:{relay.port}" for relay in ways)))), host_id(n))
            for n, ways in enumerate(relays)])
        faults = Faults(cluster, relays, hosts)
        with hosts.working():
            hosts.wait_progress(50, *range(HOSTS))
            faults.kill(cluster.members[0])
            faults.cut(1, Relay.silence)
            faults.kill(cluster.leader())
            faults.freeze(cluster.leader())
            faults.cut(2, Relay.refuse)
            faults.cut_from_one_member(1)
            faults.cut(3, Relay.silence)
            faults.freeze(cluster.members[2])
            faults.kill_all()
            wait_until(lambda: hosts.history.done() >= CALLS, 90, f"{CALLS} calls succeed")
        print("\n", {k: v for k, v in hosts.history.counts.items() if k.startswith("re")})
        assert wrong(hosts.history.events) == []
        wait_until(lambda: hosts.settled(direct) == held(hosts.history.events), 30,
                   "the address book is what was recorded")
        hosts.release_all()
        left = [entry.key for entry in direct.range(keys.ROOT).entries]
        assert set(left) <= {keys.fence(host_id(n)) for n in range(HOSTS)}
