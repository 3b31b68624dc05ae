"""Tests hosts that go for good: what is removed, when, and by whom (the fake, a real etcd)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.compose.parts.removal import remove_records
from driver.errors import Conflict, SlimError
from driver.model import (
    Absence,
    Endpoint,
    EndpointId,
    Host,
    HostId,
    KnownHost,
    NetworkId,
    NetworkKey,
    Removal,
    Seen,
)
from driver.store.answers import EtcdAnswers
from driver.store.endpoints import EtcdEndpoints
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys, records
from driver.store.hosts.absences import EtcdAbsences
from driver.store.hosts.fence import FencedKeyValue
from driver.store.hosts.registration import Return
from driver.store.hosts.registry import EtcdHosts
from driver.store.kv.protocol import Delete, KeyValue, Put
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.run.wait import wait_until
from tests.support.world.addressing import GATEWAY, host_id, service
from tests.support.world.etcd import live

Kv = FakeKeyValue | EtcdKeyValue
POOL = "10.32.0.0/24"


class Member:
    """A host with the subnet POOL, as its driver would enter it in etcd."""

    def __init__(self, kv: KeyValue, number: int) -> None:
        self.host = Host(host_id(number), f"host{number}", IPv4Address(f"192.0.2.{number}"))
        self.known = KnownHost(self.host, 3600)
        self.addresses = service(kv, number)
        self.network_id = NetworkId(f"{number:064}")
        self.networks = EtcdNetworks(kv, self.host.id)
        self.endpoints = EtcdEndpoints(kv, self.host.id, self.networks)

    def join(self) -> None:
        self.pool = self.addresses.request_pool("slim-local", POOL, "", v6=False, options={})
        self.addresses.request_address(self.pool.pool_id, "", options=GATEWAY)
        self.network = self.networks.create(
            self.network_id, NetworkKey(f"pool:{POOL}"), subnets=(POOL,), internal=False, mtu=0)

    def request(self, address: str = "", owner: str = "") -> IPv4Interface:
        options = {"com.docker.network.endpoint.name": owner} if owner else {}
        given = self.addresses.request_address(self.pool.pool_id, address, options=options)
        assert isinstance(given, IPv4Interface)
        return given

    def run(self, number: int, owner: str = "") -> Endpoint:
        """Enter all that a container needs."""
        made = Endpoint(
            id=EndpointId(f"{self.host.id[-2:]}{number:062}"), network_id=self.network_id,
            vni=self.network.vni, host=self.host.id, underlay=self.host.underlay, mac=bytes(6),
            address=self.request(owner=owner), address6=None, port=61000 + number)
        self.endpoints.create(made)
        return made


def all_keys(kv: Kv) -> set[str]:
    """Return all keys but tombstones, which end by themselves."""
    return {entry.key for entry in live(kv.range(keys.ROOT).entries)}


def begun(kv: Kv, member: Member, removal: Removal) -> Absence:
    absences = EtcdAbsences(kv)
    absence = absences.begin(member.host.id, absences.get(member.host.id), removal)
    assert absence is not None
    return absence


@pytest.fixture
def two(kv: Kv) -> tuple[Member, Member]:
    """A member that stays, and one that goes."""
    stays, goes = Member(kv, 1), Member(kv, 2)
    stays.join()
    stays.run(1, "web")
    return stays, goes


def test_addresses_return_and_networks_stay(kv: Kv, two: tuple[Member, Member]) -> None:
    stays, goes = two
    goes.join()
    without = all_keys(kv)
    run = [goes.run(number, f"name{number}") for number in range(3)]
    held = goes.request()
    assert len(all_keys(kv)) > len(without)
    absence = begun(kv, goes, Removal.ADDRESSES)
    remove_records(kv, absence)
    assert EtcdAbsences(kv).finish(absence)
    assert all_keys(kv) - without == {keys.absent(goes.host.id), keys.fence(goes.host.id)}
    assert without <= all_keys(kv)
    for address in (*(endpoint.address for endpoint in run), held):
        assert address is not None
        assert stays.request(str(address.ip)) == address
    assert EtcdNetworks(kv, goes.host.id).list() == [goes.network]


def test_who_removes_a_host_speaks_for_it(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    goes.join()
    gone = goes.run(1)
    kv.commit([], [Put(keys.known(goes.host.id), records.encode(
        records.known_fields(KnownHost(goes.host, 60))))])
    remove_records(kv, begun(kv, goes, Removal.ADDRESSES), speak=True)
    entry = kv.get(keys.endpoint(gone.vni, gone.id))
    assert entry is not None
    assert records.decode(entry, records.left).id == gone.id
    answer = EtcdAnswers(kv, HostId("x")).all()[goes.host.id]
    assert answer.underlay == goes.host.underlay
    assert answer.revision >= entry.mod_revision


def test_everything_is_as_if_it_had_never_been(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    before = all_keys(kv)
    goes.join()
    for number in range(3):
        goes.run(number, f"name{number}")
    goes.request()
    absence = begun(kv, goes, Removal.EVERYTHING)
    remove_records(kv, absence)
    assert EtcdAbsences(kv).finish(absence)
    # These stay, so that an earlier write cannot still succeed, and the host learns that it was
    # forgotten whenever it comes back.
    assert all_keys(kv) == before | {keys.absent(goes.host.id), keys.fence(goes.host.id)}


def test_the_last_host_of_a_network_takes_it_along(kv: Kv) -> None:
    goes = Member(kv, 2)
    goes.join()
    goes.run(1)
    remove_records(kv, begun(kv, goes, Removal.EVERYTHING))
    assert all_keys(kv) == {keys.absent(goes.host.id), keys.fence(goes.host.id)}


def test_begun_again_after_any_fault(two: tuple[Member, Member], kv: Kv) -> None:
    _, goes = two
    before = all_keys(kv)
    goes.join()
    for number in range(2):
        goes.run(number, "web")
    absence = begun(kv, goes, Removal.EVERYTHING)
    for step in range(1, 200):
        faulty = FaultyKeyValue(kv, lambda n, step=step: (  # type: ignore[misc]
            "" if n < step else "after" if n == step else "before"))
        try:
            remove_records(faulty, absence)
        except SlimError:
            continue
        break
    else:
        pytest.fail("it never came to an end")
    assert all_keys(kv) == before | {keys.absent(goes.host.id), keys.fence(goes.host.id)}


def test_several_begin_and_one_does(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    absences = EtcdAbsences(kv)
    assert [absences.note(goes.known, None, Seen.GONE) for _ in range(3)] == [True, False, False]
    noted = absences.get(goes.host.id)
    assert noted is not None
    assert 3500 < (absences.left_s(noted) or 0) <= 3600
    begun = [absences.begin(goes.host.id, noted, Removal.ADDRESSES) for _ in range(3)]
    assert [found is not None for found in begun] == [True, False, False]


def test_a_live_host_is_not_absent(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    absences = EtcdAbsences(kv)
    hosts = EtcdHosts(kv, return_after_s=3600)
    hosts.register(goes.host)
    try:
        wait_until(lambda: goes.host.id in absences.registered(), 30, "it is registered")
        assert absences.known() == {goes.host.id: goes.known}
        assert not absences.note(goes.known, None, Seen.GONE)
        assert absences.begin(goes.host.id, None, Removal.EVERYTHING) is None
    finally:
        hosts.close()
    assert absences.registered() == set()
    assert absences.known() == {goes.host.id: goes.known}
    assert absences.note(goes.known, None, Seen.GONE)


def test_time_runs_for_who_is_certainly_gone(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    absences, known = EtcdAbsences(kv), KnownHost(goes.host, 2)

    def note(seen: Seen) -> Absence:
        assert absences.note(known, absences.get(goes.host.id), seen)
        noted = absences.get(goes.host.id)
        assert noted is not None
        assert noted.seen is seen
        return noted

    assert absences.left_s(note(Seen.SILENCE)) is None
    absence = note(Seen.GONE)
    assert absences.left_s(absence)
    wait_until(lambda: absences.left_s(absence) == 0, 30, "its time to run out")
    assert not absences.note(known, None, Seen.ALIVE)  # decided by outdated data
    assert absences.left_s(note(Seen.ALIVE)) is None
    assert absences.left_s(note(Seen.GONE))  # the time begins anew
    for_ever = Member(kv, 3)
    assert absences.note(KnownHost(for_ever.host, 0), None, Seen.GONE)
    kept = absences.get(for_ever.host.id)
    assert kept is not None
    assert absences.left_s(kept) is None


class Returner:
    """A host that registers, with what it was told meanwhile."""

    def __init__(self, kv: Kv, member: Member) -> None:
        self.completed: list[Removal] = []
        self.forgotten = threading.Event()
        self.told: list[tuple[Removal, bool]] = []  # the removal, and whether it is settled
        self._kv = kv
        self.hosts = EtcdHosts(kv, 2, return_after_s=3600,
                               on_return=Return(self._complete, self._forget))
        self.hosts.register(member.host)

    def _forget(self, removal: Removal) -> None:
        self.told.append((removal, self.hosts.settled.is_set()))
        self.forgotten.set()

    def _complete(self, absence: Absence) -> None:
        remove_records(self._kv, absence)
        self.completed.append(absence.removal)


def test_who_comes_back_finishes_what_a_person_has_begun(kv: Kv, two: tuple[Member, Member]
                                                         ) -> None:
    _, goes = two
    goes.join()
    goes.run(1)
    begun(kv, goes, Removal.EVERYTHING)
    back = Returner(kv, goes)
    try:
        assert back.forgotten.wait(10)
        assert back.completed == [Removal.EVERYTHING]
        assert back.told == [(Removal.EVERYTHING, False)]
        assert EtcdEndpoints(kv, goes.host.id, goes.networks).list() == []
        assert EtcdNetworks(kv, goes.host.id).list() == []
    finally:
        back.hosts.close()


def test_who_comes_back_ends_a_removal_of_its_addresses(kv: Kv, two: tuple[Member, Member]) -> None:
    """What is left stays, its peers reach it without a break, and the removal stops."""
    _, goes = two
    goes.join()
    taken, kept = goes.run(1), goes.run(2)
    absence = begun(kv, goes, Removal.ADDRESSES)
    goes.endpoints.delete(taken.id)  # the others had removed this one
    before = all_keys(kv)
    back = Returner(kv, goes)
    try:
        assert back.forgotten.wait(10)
        assert (back.completed, back.told) == ([], [(Removal.ADDRESSES, False)])
        assert back.hosts.settled.wait(10)
        assert all_keys(kv) - before == {keys.host(goes.host.id), keys.known(goes.host.id),
                                         keys.underlay(goes.host.underlay)}
        assert before - all_keys(kv) == {keys.absent(goes.host.id)}
        with pytest.raises(Conflict):  # the slower driver does no harm
            remove_records(kv, absence)
        assert EtcdEndpoints(kv, goes.host.id, goes.networks).list() == [kept]
    finally:
        back.hosts.close()


def test_a_short_absence_has_no_consequence(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    absences = EtcdAbsences(kv)
    assert absences.note(goes.known, None, Seen.GONE)
    back = Returner(kv, goes)
    try:
        wait_until(lambda: goes.host.id in absences.registered(), 30, "it is registered")
        assert absences.get(goes.host.id) is None
        assert not back.forgotten.is_set()
    finally:
        back.hosts.close()


def test_a_live_host_learns_that_it_was_forgotten(kv: Kv, two: tuple[Member, Member]) -> None:
    _, goes = two
    goes.join()
    absences = EtcdAbsences(kv)
    back = Returner(kv, goes)
    try:
        wait_until(lambda: goes.host.id in absences.registered(), 30, "it is registered")
        absence = absences.begin(goes.host.id, None, Removal.EVERYTHING, registered=True)
        assert absence is not None
        try:
            remove_records(kv, absence)
            absences.finish(absence)
        except Conflict:
            assert back.completed  # the host was first
        assert back.forgotten.wait(10)
        assert EtcdNetworks(kv, goes.host.id).list() == []
    finally:
        back.hosts.close()


def test_data_that_etcd_lost_is_no_forgetting(
        kv: Kv, two: tuple[Member, Member], caplog: pytest.LogCaptureFixture) -> None:
    """The host keeps what runs."""
    _, goes = two
    back = Returner(kv, goes)
    try:
        wait_until(lambda: kv.get(keys.known(goes.host.id)), 30, "it is registered")
        assert kv.commit([], [Delete(key) for key in all_keys(kv)])
        wait_until(lambda: kv.get(keys.known(goes.host.id)), 30, "it is registered again")
        assert not back.forgotten.is_set()
        assert "has etcd lost its data?" in caplog.text
    finally:
        back.hosts.close()


@pytest.mark.parametrize("which", ["host", "underlay"])
def test_a_record_of_a_live_host_that_is_lost_comes_back(
        kv: Kv, two: tuple[Member, Member], which: str) -> None:
    _, goes = two
    lost = {"host": keys.host(goes.host.id), "underlay": keys.underlay(goes.host.underlay)}[which]
    back = Returner(kv, goes)
    try:
        wait_until(lambda: kv.get(lost), 30, "it is registered")
        assert kv.commit([], [Delete(lost)])
        wait_until(lambda: kv.get(lost), 30, "it is registered again")
        assert not back.forgotten.is_set()
    finally:
        back.hosts.close()


def test_an_address_is_given_once_whoever_wins(kv: Kv, two: tuple[Member, Member]) -> None:
    """Two drivers remove addresses, a third assigns them, and the host comes back meanwhile."""
    stays, goes = two
    goes.join()
    mine = [goes.run(number) for number in range(8)]
    absence = begun(kv, goes, Removal.ADDRESSES)
    taken: list[IPv4Interface] = []
    failures: list[Exception] = []

    def guarded(act: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                act()
            except Conflict:
                pass
            except SlimError as error:
                failures.append(error)

        return run

    def take() -> None:
        for endpoint in mine:
            assert endpoint.address is not None
            try:
                taken.append(stays.request(str(endpoint.address.ip)))
            except Conflict:
                continue

    threads = [threading.Thread(target=guarded(act)) for act in (
        lambda: remove_records(kv, absence), lambda: remove_records(kv, absence), take)]
    for thread in threads:
        thread.start()
    back = Returner(kv, goes)
    try:
        assert back.forgotten.wait(20)
        for thread in threads:
            thread.join(20)
        restored = []
        for endpoint in mine:
            try:
                goes.endpoints.create(endpoint)
            except Conflict:
                continue
            restored.append(endpoint)
        # An address held by value that no endpoint has is for whoever binds it first, once.
        stayed = [IPv4Interface(a) for a in taken]
        for number, address in enumerate(stayed):
            made = Endpoint(
                id=EndpointId(f"ff{number:062}"), network_id=stays.network_id,
                vni=stays.network.vni, host=stays.host.id, underlay=stays.host.underlay,
                mac=bytes(6), address=address, address6=None, port=62000 + number)
            try:
                stays.endpoints.create(made)
            except Conflict:
                continue
            restored.append(made)
        used = [endpoint.address for endpoint in restored]
        assert len(set(used)) == len(used)
        assert not failures
    finally:
        back.hosts.close()


def test_what_a_host_had_sent_before_does_not_happen_any_more(kv: Kv) -> None:
    goes = Member(FencedKeyValue(kv, host_id(2)), 2)
    goes.join()
    fence = kv.get(keys.fence(goes.host.id))
    begun(kv, goes, Removal.ADDRESSES)
    raised = kv.get(keys.fence(goes.host.id))
    assert raised is not None
    assert fence is None or raised.mod_revision > fence.mod_revision
    assert kv.commit([], [Delete(keys.absent(goes.host.id))])
    goes.run(1)  # reads the fence again
