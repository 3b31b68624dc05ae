"""Tests networks' members: hundreds come and go at once, beside older drivers, with lost keys."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from driver.errors import Conflict, SlimError
from driver.model import Network, NetworkId, NetworkKey, Vni
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys, records
from driver.store.kv.protocol import Delete, KeyValue, Put
from driver.store.kv.transaction import Transaction
from driver.store.networks import EtcdNetworks
from driver.work import deadline
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.world.addressing import GATEWAY, host_id, service
from tests.support.world.etcd import Etcd

Kv = FakeKeyValue | EtcdKeyValue

LIMIT_S = 60.0  # far more than a call of Docker's has: all hosts share one process here
HOSTS = 200
CIDR = "10.32.0.0/16"
POOL = NetworkKey(f"pool:{CIDR}")
NET = NetworkId("1" * 64)
NET2 = NetworkId("2" * 64)


@pytest.fixture
def patient(kv: Kv, request: pytest.FixtureRequest) -> Iterator[Kv]:
    """The store, with a client that waits for LIMIT_S."""
    if isinstance(kv, FakeKeyValue):
        yield kv
        return
    server: Etcd = request.getfixturevalue("etcd")
    with EtcdKeyValue(server.settings(), call_s=LIMIT_S) as client:
        yield client


def create(networks: EtcdNetworks, network_id: NetworkId = NET) -> Vni:
    return networks.create(network_id, POOL, subnets=(CIDR,), internal=False, mtu=0).vni


def everything(kv: KeyValue) -> list[str]:
    return [entry.key for entry in kv.range(keys.ROOT).entries]


def at_once(acts: Sequence[Callable[[], None]]) -> list[str]:
    """Run each in its own thread; return their errors."""
    failed: list[str] = []
    ready = threading.Barrier(len(acts))

    def run(act: Callable[[], None]) -> None:
        ready.wait()
        try:
            with deadline.limit(LIMIT_S):
                act()
        except SlimError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_hundreds_of_hosts_come_and_go_at_once(
        patient: Kv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each requests what `docker network create` does: pool, gateway, network."""
    kv = patient
    services = [service(kv, number) for number in range(HOSTS)]
    networks = [EtcdNetworks(kv, host_id(number)) for number in range(HOSTS)]
    pools: list[str] = []
    assert at_once([lambda s=each: pools.append(s.request_pool(  # type: ignore[misc]
        "slim-local", CIDR, "", v6=False, options={}).pool_id) for each in services]) == []
    pool, = set(pools)
    assert at_once([lambda s=each: s.request_address(  # type: ignore[misc]
        pool, "10.32.0.1", options=GATEWAY) for each in services]) == []
    vnis: list[Vni] = []
    commits: list[int] = []
    commit = kv.commit
    monkeypatch.setattr(kv, "commit", lambda *each: (commits.append(1), commit(*each))[1])
    assert at_once([lambda n=each: vnis.append(create(n))  # type: ignore[misc]
                    for each in networks]) == []
    assert len(vnis) == HOSTS
    assert len(set(vnis)) == 1
    # One host makes the network; those that were slower need a second attempt, but no third.
    assert sum(commits) <= 2 * HOSTS
    assert kv.count(keys.members(POOL)) == HOSTS

    assert at_once([lambda n=each: n.delete(NET) for each in networks]) == []  # type: ignore[misc]
    assert at_once([lambda s=each: s.release_address(pool, "10.32.0.1")  # type: ignore[misc]
                    for each in services]) == []
    assert at_once([lambda s=each: s.release_pool(pool)  # type: ignore[misc]
                    for each in services]) == []
    assert everything(kv) == []


class Interposed(FakeKeyValue):
    """Lets another act just before the next commit, when all has been read."""

    def __init__(self, store: FakeStore) -> None:
        super().__init__(store)
        self.meanwhile: Callable[[], object] | None = None

    def commit(self, *arguments: object) -> int:  # type: ignore[override]
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().commit(*arguments)  # type: ignore[arg-type]


def test_the_last_one_goes_while_another_comes() -> None:
    kv = Interposed(FakeStore())
    one, two = EtcdNetworks(kv, host_id(1)), EtcdNetworks(FakeKeyValue(kv.store), host_id(2))
    vni = create(one)
    kv.meanwhile = lambda: create(two)
    one.delete(NET)
    assert kv.count(keys.members(POOL)) == 1
    assert kv.get(keys.network(POOL))
    assert kv.get(keys.vni(vni))
    kv.meanwhile = lambda: two.delete(NET)
    assert create(one) == vni, "the network is made anew"
    one.delete(NET)
    assert everything(kv) == []


def test_the_last_two_go_at_once() -> None:
    kv = Interposed(FakeStore())
    one, two = EtcdNetworks(kv, host_id(1)), EtcdNetworks(FakeKeyValue(kv.store), host_id(2))
    create(one)
    create(two)
    kv.meanwhile = lambda: two.delete(NET)
    one.delete(NET)
    assert everything(kv) == []


class DriverOfBefore:
    """Writes as drivers without member keys did: all hosts in the network's one value."""

    def __init__(self, kv: KeyValue, number: int) -> None:
        self._kv = kv
        self._host = host_id(number)

    def create(self, network_id: NetworkId = NET) -> Vni:
        shared = self._kv.get(keys.network(POOL))
        members = records.decode(shared, records.members) if shared else {}
        vni = records.decode(shared, records.vni) if shared else Vni(7)
        members[self._host] = (*members.get(self._host, ()), network_id)
        change = Transaction()
        change.put(keys.local_network(self._host, network_id), records.encode(
            records.network_fields(Network(network_id, POOL, vni, (CIDR,), False, 0))))
        change.as_read(keys.network(POOL), shared)
        change.put(keys.network(POOL), self._value(vni, members))
        if shared is None:
            change.put(keys.vni(vni), records.encode({"key": POOL}))
        assert change.commit(self._kv)
        return vni

    def delete(self, network_id: NetworkId = NET) -> None:
        shared = self._kv.get(keys.network(POOL))
        assert shared is not None
        members, vni = records.decode(shared, records.members), records.decode(shared, records.vni)
        left = tuple(i for i in members.pop(self._host, ()) if i != network_id)
        if left:
            members[self._host] = left
        change = Transaction()
        change.delete(keys.local_network(self._host, network_id))
        change.as_read(keys.network(POOL), shared)
        if members:
            change.put(keys.network(POOL), self._value(vni, members))
        else:
            change.delete(keys.network(POOL))
            change.delete(keys.vni(vni))
        assert change.commit(self._kv)

    @staticmethod
    def _value(vni: Vni, members: dict[str, Sequence[str]]) -> bytes:  # type: ignore[type-arg]
        return json.dumps({"schema": 1, "key": POOL, "vni": vni, "write": secrets.token_hex(8),
                           "members": {h: list(i) for h, i in members.items()}}).encode()


@pytest.mark.parametrize("first", ["before", "now"])
@pytest.mark.parametrize("last", ["before", "now"])
def test_beside_drivers_of_before_no_member_is_lost(kv: Kv, first: str, last: str) -> None:
    old, now = DriverOfBefore(kv, 1), EtcdNetworks(kv, host_id(2))
    comers: list[Callable[[], Vni]] = [old.create, lambda: create(now)]
    goers: list[Callable[[], None]] = [old.delete, lambda: now.delete(NET)]
    if first == "now":
        comers.reverse()
    if last == "before":
        goers.reverse()
    assert len({come() for come in comers}) == 1
    goers[0]()
    assert kv.get(keys.network(POOL)), "one of them has it still"
    assert kv.count(keys.VNIS) == 1
    goers[1]()
    assert everything(kv) == []


def test_what_an_earlier_version_wrote_is_taken_over(kv: Kv) -> None:
    old = DriverOfBefore(kv, 1)
    vni = old.create()
    DriverOfBefore(kv, 2).create()
    upgraded = EtcdNetworks(kv, host_id(1))
    assert create(upgraded, NET2) == vni
    member = kv.get(keys.member(POOL, host_id(1)))
    assert member is not None
    assert records.decode(member, records.network_ids) == (NET, NET2)
    upgraded.delete(NET2)
    upgraded.delete(NET)
    assert kv.get(keys.network(POOL)), "the other host has it still"
    second = EtcdNetworks(kv, host_id(2))
    second.enter(second.list()[0])  # as at the first start of this version
    assert kv.count(keys.members(POOL)) == 1
    second.delete(NET)
    assert everything(kv) == []


@pytest.mark.parametrize("lost", ["everything", "network", "vni", "member", "local"])
def test_what_etcd_has_lost_of_a_network_is_entered_again(kv: Kv, lost: str) -> None:
    networks = EtcdNetworks(kv, host_id(1))
    create(networks)
    network, = networks.list()
    before = everything(kv)
    gone = {"everything": before, "network": [keys.network(POOL)], "vni": [keys.vni(network.vni)],
            "member": [keys.member(POOL, host_id(1))],
            "local": [keys.local_network(host_id(1), NET)]}[lost]
    kv.commit([], [Delete(key) for key in gone])
    networks.enter(network)
    assert everything(kv) == before
    assert EtcdNetworks(kv, host_id(1)).list() == [network]
    revision = kv.range(keys.ROOT).revision
    networks.enter(network)
    assert kv.range(keys.ROOT).revision == revision, "nothing is written twice"
    networks.delete(NET)
    assert everything(kv) == []


def test_hundreds_enter_their_network_again_at_once(patient: Kv) -> None:
    kv = patient
    networks = [EtcdNetworks(kv, host_id(number)) for number in range(HOSTS)]
    network = Network(NET, POOL, Vni(7), (CIDR,), False, 0)
    assert at_once([lambda n=each: n.enter(network) for each in networks]) == []  # type: ignore[misc]
    assert kv.count(keys.members(POOL)) == HOSTS
    assert kv.count(keys.VNIS) == 1


@contextmanager
def refused(text: str) -> Iterator[None]:
    with pytest.raises(Conflict, match=text):
        yield


def test_what_is_in_the_way_of_entering_is_named(kv: Kv) -> None:
    networks = EtcdNetworks(kv, host_id(1))
    network = Network(NET, POOL, Vni(7), (CIDR,), False, 0)
    kv.commit([], [Put(keys.vni(7), records.encode({"key": "pool:10.99.0.0/16"}))])
    with refused(f"VNI 7 of network {POOL} belongs to network pool:10.99.0.0/16"):
        networks.enter(network)
    kv.commit([], [Delete(keys.vni(7))])
    other = create(EtcdNetworks(kv, host_id(2)))
    with refused(f"network {POOL} has VNI {other} in etcd, and 7 on this host"):
        networks.enter(network)
    kv.commit([], [Put(keys.local_network(host_id(1), NET), records.encode(
        records.network_fields(Network(NET, POOL, Vni(9), (CIDR,), False, 0))))])
    right = Network(NET, POOL, other, (CIDR,), False, 0)
    assert networks.enter(right)  # the host decides its own part
    assert networks.on_record() == [right]
    for number in (1, 2):
        EtcdNetworks(kv, host_id(number)).delete(NET)
    assert kv.count(keys.members(POOL)) == 0
