"""Tests the tombstones of removed endpoints, and hosts' lists of all their records."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from driver.errors import Conflict, UnsupportedRecord
from driver.model import Endpoint, HostId
from driver.services.ports import Answer, Left
from driver.store.address_book import EtcdAddressBook
from driver.store.answers import EtcdAnswers
from driver.store.endpoints import EtcdEndpoints
from driver.store.feeds.directory import EtcdDirectory
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.kv.protocol import Delete, KeyValue, Put
from driver.store.networks import EtcdNetworks
from driver.store.tombstones import FRESH_S, TTL_S, Tombstones
from tests.contract.records.test_store import HOST_A, HOST_B, Heard, Kv, create, endpoint
from tests.support.fakes.kv import LeaseNoting
from tests.support.run.wait import wait_until

CIDR = "10.32.0.0/16"


class Host:
    def __init__(self, kv: KeyValue, host: HostId = HOST_A) -> None:
        self.kv = kv
        self.host = host
        self.networks = EtcdNetworks(kv, host)
        self.vni = create(self.networks)
        self.endpoints = EtcdEndpoints(kv, host, self.networks)

    def made(self, number: int = 1, ip: str = "10.32.0.2/16") -> Endpoint:
        made = endpoint(self.networks, number, host=self.host, ip=ip)
        self.endpoints.create(made)
        return made

    def shared(self, one: Endpoint) -> bytes | None:
        entry = self.kv.get(keys.endpoint(self.vni, one.id))
        return entry.value if entry is not None else None


def binding(kv: Kv, one: Endpoint) -> str | None:
    assert one.address is not None
    found = EtcdAddressBook(kv).reservation(CIDR, one.address.ip).value
    return found.endpoint if found is not None else None


def test_removed_and_said_so(kv: Kv, feeds: Feeds) -> None:
    host = Host(kv)
    one, two = host.made(), host.made(2, "10.32.0.3/16")
    heard, directory = Heard(), EtcdDirectory(feeds, kv)
    directory.follow(host.vni, heard)
    wait_until(lambda: set(heard.endpoints) == {one.id, two.id}, 30, "the list")
    host.endpoints.delete(one.id)
    wait_until(lambda: heard.gone == [one.id], 30, "its end")
    later, again = Heard(), EtcdDirectory(feeds, kv)
    again.follow(host.vni, later)
    wait_until(lambda: later.snapshots == 1, 30, "another list")
    assert (set(later.endpoints), later.gone) == ({two.id}, [one.id])
    assert Left(one) in list(directory.read(host.vni)), "with where it was"
    assert kv.get(keys.local_endpoint(HOST_A, one.id)) is None
    # A record that only vanishes leaves no tombstone.
    kv.commit([], [Delete(keys.endpoint(host.vni, two.id))])
    wait_until(lambda: heard.lost, 30, "the loss")
    assert heard.lost == [(two.id, kv.range(keys.ROOT).revision)]
    assert (set(heard.endpoints), heard.gone) == ({two.id}, [one.id])
    for each in (directory, again):
        each.close()


def test_drivers_of_before_read_it_as_no_record(kv: Kv) -> None:
    host = Host(kv)
    one = host.made()
    host.endpoints.delete(one.id)
    entry = kv.get(keys.endpoint(host.vni, one.id))
    assert entry is not None
    with pytest.raises(UnsupportedRecord):
        records.decode(entry, records.endpoint)


@pytest.mark.parametrize("swapped", ["another endpoint", "another network"])
def test_a_tombstone_under_another_key_says_nothing(kv: Kv, feeds: Feeds, swapped: str) -> None:
    host = Host(kv)
    one, two = host.made(), host.made(2, "10.32.0.3/16")
    about = replace(one, vni=host.vni + 1) if swapped == "another network" else two
    kv.commit([], [Put(keys.endpoint(host.vni, one.id),
                       records.encode(records.left_fields(about)))])
    heard, directory = Heard(), EtcdDirectory(feeds, kv)
    directory.follow(host.vni, heard)
    wait_until(lambda: heard.snapshots == 1, 30, "the list")
    assert (heard.gone, heard.bad) == ([], [one.id])
    directory.close()


def test_the_same_endpoint_can_be_entered_again(kv: Kv) -> None:
    host = Host(kv)
    one = host.made()
    host.endpoints.delete(one.id)
    host.endpoints.create(one)
    assert b'"left":' not in (host.shared(one) or b"")
    # Only the host's own record is lost.
    kv.commit([], [Delete(keys.local_endpoint(HOST_A, one.id))])
    fresh = EtcdEndpoints(kv, HOST_A, host.networks)
    fresh.create(replace(one, port=61001))
    assert fresh.list() == [replace(one, port=61001)]
    # This host must not write another host's record.
    other = Host(kv, HOST_B)
    with pytest.raises(Conflict, match="of host aaaa"):
        other.endpoints.create(replace(one, host=HOST_B))
    assert binding(kv, one) == one.id


def test_a_tombstone_goes_by_itself_and_not_what_has_come_in_its_place(kv: Kv) -> None:
    noting = LeaseNoting(kv)
    host = Host(noting)
    one, two = host.made(), host.made(2, "10.32.0.3/16")
    for each in (one, two):
        host.endpoints.delete(each.id)
    host.endpoints.create(two)
    lease, = noting.leases
    assert FRESH_S < kv.lease_left_s(lease.id) <= TTL_S
    lease.revoke()  # as when it expires
    assert [entry.key for entry in kv.range(keys.ENDPOINTS).entries] == [
        keys.endpoint(host.vni, two.id)]
    # The lease has ended, and the host does not know.
    host.endpoints.delete(two.id)
    assert len(noting.leases) == 2
    assert b'"left":' in (host.shared(two) or b"")
    assert binding(kv, two) == ""


def test_one_lease_for_many(kv: Kv) -> None:
    now_s = 0.0
    stones = Tombstones(kv, lambda: now_s)
    first = stones.put("/k1", b"")
    assert first.lease_id == stones.put("/k2", b"").lease_id
    now_s = FRESH_S + 1
    second = stones.put("/k3", b"")
    assert second.lease_id not in (0, first.lease_id)
    stones.forget()
    assert stones.put("/k4", b"").lease_id not in (0, second.lease_id)


@pytest.mark.parametrize("shared", ["there", "lost", "garbage", "of another host"])
def test_deleting_what_this_hosts_own_record_is_lost_of(kv: Kv, shared: str) -> None:
    host = Host(kv)
    one = host.made()
    assert host.endpoints.list() == [one]
    key = keys.endpoint(host.vni, one.id)
    others = records.encode(records.shared_endpoint_fields(replace(one, host=HOST_B)))
    kv.commit([], [Delete(keys.local_endpoint(HOST_A, one.id)), *(
        [] if shared == "there" else [Delete(key)] if shared == "lost"
        else [Put(key, b"{}" if shared == "garbage" else others)])])
    host.endpoints.delete(one.id)
    if shared == "of another host":
        assert host.shared(one) == others
    else:
        assert b'"left":' in (host.shared(one) or b""), "others may still have it"
    assert binding(kv, one) == ""
    assert host.endpoints.list() == []


def test_deleting_one_that_only_this_host_knows(kv: Kv) -> None:
    host = Host(kv)
    one = host.made()
    kv.commit([], [Delete(keys.local_endpoint(HOST_A, one.id)),
                   Delete(keys.endpoint(host.vni, one.id))])
    fresh = EtcdEndpoints(kv, HOST_A, host.networks)  # a restarted driver's
    fresh.delete(one.id)
    assert host.shared(one) is None
    fresh.delete(one.id, one)
    assert b'"left":' in (host.shared(one) or b"")
    assert binding(kv, one) == ""


def test_which_endpoints_others_cannot_find(kv: Kv) -> None:
    host = Host(kv)
    one, two, three = (host.made(n, f"10.32.0.{n + 1}/16") for n in (1, 2, 3))
    assert host.endpoints.missing(host.endpoints.list) == ([], kv.range(keys.ROOT).revision)

    def meanwhile() -> list[Endpoint]:
        host.endpoints.replace(replace(one, port=61001))
        return host.endpoints.list()

    assert host.endpoints.missing(meanwhile) == ([], 0), "it may have been entered just now"
    one = replace(one, port=61001)
    kv.commit([], [Delete(keys.endpoint(host.vni, one.id)),
                   Put(keys.endpoint(host.vni, two.id), b"{}"),
                   Put(keys.endpoint(host.vni, three.id),
                       records.encode(records.left_fields(three)))])
    lost, _ = host.endpoints.missing(host.endpoints.list)
    assert lost == [one, three]


def test_questions_and_answers(kv: Kv) -> None:
    feeds = Feeds(kv)
    mine, theirs = EtcdAnswers(kv, HOST_A, feeds), EtcdAnswers(kv, HOST_B)
    heard: list[int] = []
    mine.follow(heard.append)
    theirs.ask(HOST_A, 7)
    wait_until(lambda: heard == [7], 30, "the question")
    before = kv.range(keys.ROOT).revision
    theirs.ask(HOST_A, 7)
    theirs.ask(HOST_A, 6)
    assert kv.range(keys.ROOT).revision == before, "it is asked already"
    theirs.ask(HOST_A, 9)
    wait_until(lambda: heard == [7, 9], 30, "a later question")
    late: list[int] = []
    mine.follow(late.append)
    wait_until(lambda: late == [9], 30, "one that was asked before")
    assert theirs.all() == {}
    revision = kv.range(keys.ROOT).revision
    mine.say(revision)
    theirs.say(revision, removed=IPv4Address("192.0.2.1"))
    assert theirs.all() == {HOST_A: Answer(revision),
                            HOST_B: Answer(revision, IPv4Address("192.0.2.1"))}
    mine.say(revision + 1000)  # a copy from another etcd
    kv.commit([], [Put(keys.answer(HostId("x")), b"{}")])
    assert set(theirs.all()) == {HOST_B}
    mine.close()
    feeds.close()

