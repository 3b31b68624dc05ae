"""Tests that real etcds become members and cease to be, and take new certificates as they are."""

from __future__ import annotations

import socket
import ssl

import pytest

from driver.cluster.authority import HOST_PREFIX, Usage, validity
from driver.cluster.etcd import etcd_member
from driver.cluster.etcd.plan import REPLACED_AFTER_S, AddLearner
from driver.cluster.etcd.steward import MEMORY_S, Steward
from driver.cluster.model import ClusterHost, Member, Role, client_url, peer_url
from driver.cluster.records import ClusterRecords
from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys
from driver.store.kv.protocol import Delete, Put
from tests.contract.cluster.world import HOUR_S, RealCluster, RealHost, done
from tests.support.run.wait import wait_until


def test_one_becomes_three_and_goes_on_with_others(own: RealCluster) -> None:
    """A learner without a process costs nothing; each member is replaced, the first one, too."""
    second, third = own.host(), own.host()
    members = own.members()
    own.add_member(second)
    with own.root() as kv:
        assert kv.commit([], [Put(keys.ROOT + "a", b"1")])
        wait_until(lambda: done(lambda: members.add_learner(third.me.address)), 30,
                   "one that does not start")
        expected = next(each for each in members.list_members() if each.is_learner)
        assert (expected.name, expected.client_urls, expected.address) == (
            "", (), third.me.address)
        with pytest.raises(StoreUnavailable):  # one at a time
            members.add_learner("127.0.2.99")
        with pytest.raises(StoreUnavailable):  # it has nothing yet
            members.promote(expected.id)
        assert kv.commit([], [Put(keys.ROOT + "a", b"2")])
        members.remove(expected.id)
        members.remove(expected.id)  # who is gone is no error
    own.add_member(third)
    listed = members.list_members()
    assert {(each.name, each.address, each.is_learner) for each in listed} == {
        (host.me.host, host.me.address, False) for host in own.hosts}
    health = members.health(listed)
    assert {each.id for each in listed} == health.keys()
    assert len({said.leader for said in health.values()} - {0}) == 1
    assert all(said.bytes_allocated >= said.bytes_used > 0 and said.version.startswith("3.")
               for said in health.values())

    heir = next(each for each in listed if each.name == second.me.host)
    members.move_leader(heir.id)
    wait_until(lambda: {said.leader for said in members.health(listed).values()} == {heir.id}, 30,
               "it leads")

    third.stop()
    assert len(members.health(listed)) == 2
    by_name = {each.name: each for each in listed}
    with pytest.raises(StoreUnavailable):  # etcd itself refuses what would cost the quorum
        members.remove(by_name[second.me.host].id)
    members.remove(by_name[third.me.host].id)
    with EtcdKeyValue(own.first.settings()) as kv:
        entry = kv.get(keys.ROOT + "a")
        assert entry is not None
        assert entry.value == b"2"
    members.close()


def test_five_hosts_run_five_members_and_a_dead_one_is_replaced(own: RealCluster) -> None:
    """With the steward, which decides; the keepers' part is the test's."""
    now_s = 0.0
    with own.root() as kv:
        records, members = ClusterRecords(kv), own.members()
        steward = Steward(records, members, clock=lambda: now_s)
        hosts: dict[str, RealHost] = {}

        def join(host: RealHost) -> None:
            hosts[host.me.host] = host
            role = Role.MEMBER if host is own.first else Role.CLIENT
            records.change_host(host.me.host, lambda _: ClusterHost(
                host.me.host, host.me.name, host.me.address, float(len(hosts)), role))
            records.tell_alive(host.me.host, 0)

        def act() -> None:
            step = steward.act()
            if isinstance(step, AddLearner):
                hosts[step.host.id].become_member(own.authority, members.list_members(),
                                                  is_new=False)

        def voters() -> set[str]:
            done(act)
            return {each.name for each in members.list_members() if not each.is_learner}

        for host in (own.first, *(own.host() for _ in range(4))):
            join(host)
        wait_until(lambda: voters() == set(hosts), 60, "five members")
        health = members.health(members.list_members())
        assert len(health) == 5
        assert len({each.leader for each in health.values()}) == 1
        gone, heir = hosts[own.hosts[4].me.host], own.host()
        gone.stop()
        join(heir)
        kv.commit([], [Delete(keys.cluster_alive(gone.me.host))])
        wait_until(lambda: len(members.health(members.list_members())) == 4, 30, "four run")
        assert len(voters()) == 5, "it may come back"
        now_s = 1.0
        for _ in range(int(REPLACED_AFTER_S / MEMORY_S) + 2):
            now_s += MEMORY_S
            assert done(act)
        wanted = {host.me.host for host in own.hosts if host is not gone}
        wait_until(lambda: voters() == wanted, 60, "the sixth host has its place")
        assert {host.id: host.role for host in records.hosts()}[gone.me.host] is Role.CLIENT
        members.close()


def test_the_file_of_endpoints_is_followed(own: RealCluster) -> None:
    """A client whose etcd has gone to another host goes there, by the file alone."""
    second = own.host()
    own.members().add_user(second.me.host)
    with EtcdKeyValue(own.first.settings()) as kv:
        assert kv.commit([], [Put(keys.ROOT + "a", b"1")])
        own.add_member(second)
        own.first.folder.put_lines("endpoints", (client_url(second.me.address),))
        members = own.members("root")  # the file names the second one
        first = next(each for each in members.list_members() if each.name == own.first.me.host)
        wait_until(lambda: done(lambda: members.remove(first.id)), 30, "the first one is out")
        own.first.stop()
        wait_until(lambda: done(lambda: kv.get(keys.ROOT + "a")), 30, "it is read elsewhere")
        assert kv.commit([], [Put(keys.ROOT + "a", b"2")])
        members.close()


def test_new_certificates_are_used_without_a_restart(own: RealCluster) -> None:
    """etcd's, towards clients and among members, and a host's."""
    second = own.host()
    own.members().add_user(second.me.host)
    own.add_member(second)
    pids = [host.process.pid for host in own.hosts if host.process]
    with EtcdKeyValue(second.settings()) as kv:
        assert kv.commit([], [Put(keys.ROOT + "a", b"1")])
        before = seen(own)
        for host in own.hosts:
            host.issue_files(own.authority, 2 * HOUR_S)
            host.folder.put_issued("host", own.authority.issue(
                HOST_PREFIX + host.me.host, Usage.CLIENT, seconds=2 * HOUR_S))
        assert kv.commit([], [Put(keys.ROOT + "a", b"2")])  # what was open goes on
        assert seen(own) > before + HOUR_S / 2
        # A connection among members made now: with the new files on both sides.
        second.stop()
        second.start()
        wait_until(second.answers, 30, "they have found each other")
    with EtcdKeyValue(second.settings()) as kv:
        assert kv.commit([], [Put(keys.ROOT + "a", b"3")])
    assert own.first.process is not None
    assert own.first.process.pid == pids[0]
    assert own.first.process.poll() is None


def seen(cluster: RealCluster) -> float:
    """When the certificate that etcd shows to clients ends."""
    folder = cluster.first.folder.path
    address, port = client_url(cluster.first.me.address).partition("//")[2].split(":")
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    with (socket.create_connection((address, int(port)), 10) as raw,
          context.wrap_socket(raw, server_hostname=address) as connection):
        shown = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
    return validity(shown.encode(), "etcd's").until_s


def test_the_names_of_those_that_have_not_started_are_not_given(own: RealCluster) -> None:
    text = etcd_member.settings_text(
        own.first.folder, own.first.me, own.first.data,
        (Member(1, "other", (peer_url("127.0.2.8"),)), Member(2, "", (peer_url("127.0.2.9"),))),
        is_new=False)
    line = next(each for each in text.splitlines() if each.startswith("ETCD_INITIAL_CLUSTER="))
    assert line == (f"ETCD_INITIAL_CLUSTER={own.first.me.host}={peer_url(own.first.me.address)},"
                    f"other={peer_url('127.0.2.8')}")
