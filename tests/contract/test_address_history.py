"""Several hosts allocate and release against a real etcd: no address is ever held twice."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest

from driver.errors import Exhausted
from driver.store import keys
from driver.store.client import EtcdKeyValue
from tests.support.addressing import service
from tests.support.etcd import Etcd

HOSTS = 4
WORKERS = 4  # per host
ROUNDS = 25  # per worker
POOL = "10.77.0.0/27"  # 30 addresses for 16 workers: often used up, always contended


@dataclass(frozen=True)
class Holding:
    """From when (at the earliest known held) to when (at the latest) somebody had an address.

    Times are ticks of one counter shared by all.
    """

    address: str
    got: int  # after the answer to the request
    gave: int  # before the release was asked for


class Record:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tick = 0
        self.holdings: list[Holding] = []
        self.failures: list[str] = []
        self.exhausted = 0

    def tick(self) -> int:
        with self._lock:
            self._tick += 1
            return self._tick

    def twice(self) -> list[tuple[Holding, Holding]]:
        by_address: dict[str, list[Holding]] = defaultdict(list)
        for holding in self.holdings:
            by_address[holding.address].append(holding)
        found: list[tuple[Holding, Holding]] = []
        for holdings in by_address.values():
            holdings.sort(key=lambda h: h.got)
            found += [(a, b) for a, b in pairwise(holdings) if b.got < a.gave]
        return found


def test_the_check_finds_a_double_holding() -> None:
    record = Record()
    record.holdings = [Holding("a", 1, 4), Holding("a", 5, 6), Holding("b", 2, 3)]
    assert record.twice() == []
    record.holdings.append(Holding("a", 3, 7))
    assert record.twice()


@pytest.mark.parametrize("seed", [1])
def test_no_address_is_ever_held_twice(etcd: Etcd, seed: int) -> None:
    record = Record()
    clients = [EtcdKeyValue(etcd.settings()) for _ in range(HOSTS)]
    services = [service(client, n) for n, client in enumerate(clients)]
    pool_ids = [s.request_pool("slim-local", POOL, "", v6=False, options={}).pool_id
                for s in services]

    def work(host: int, worker: int) -> None:
        random = Random(f"{seed}/{host}/{worker}")
        on, pool_id = services[host], pool_ids[host]
        held: list[tuple[str, int]] = []
        try:
            for _ in range(ROUNDS):
                try:
                    address = str(on.request_address(pool_id, "", options={}).ip)
                    held.append((address, record.tick()))
                except Exhausted:
                    record.exhausted += 1
                while held and (len(held) > 2 or random.random() < 0.4):
                    address, got = held.pop(random.randrange(len(held)))
                    gave = record.tick()
                    on.release_address(pool_id, address)
                    record.holdings.append(Holding(address, got, gave))
            for address, got in held:
                gave = record.tick()
                on.release_address(pool_id, address)
                record.holdings.append(Holding(address, got, gave))
        except Exception as error:
            record.failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(host, worker))
               for host in range(HOSTS) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.failures == []
    assert len(record.holdings) + record.exhausted == HOSTS * WORKERS * ROUNDS
    assert len(record.holdings) > 100
    assert record.twice() == []
    assert clients[0].count(keys.ADDRESSES) == 0
    for on, pool_id in zip(services, pool_ids, strict=True):
        on.release_pool(pool_id)
    assert clients[0].count(keys.ROOT) == 0
    for client in clients:
        client.close()
