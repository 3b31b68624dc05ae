"""Tests what each certificate opens in an etcd that `slim cluster` has set up."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from driver.cluster.authority import HOST_PREFIX, Issued, Usage, new_authority
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.folder import ClusterFolder
from driver.cluster.model import ClusterHost, Role, peer_url
from driver.cluster.programs import Etcdctl
from driver.cluster.records import ClusterConfig, ClusterRecords, JoinSecret
from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.etcd.health import trouble
from driver.store.format import keys
from driver.store.kv.protocol import Delete, Put, WatchLost
from driver.store.kv.transaction import prefix_end
from tests.contract.cluster.world import HOUR_S, RealCluster, RealHost


@pytest.fixture(scope="module")
def host(one: RealCluster) -> RealHost:
    """A host that has joined, and what the cluster keeps."""
    joined = one.host()
    one.members().add_user(joined.me.host)
    with one.root() as kv:
        records = ClusterRecords(kv)
        records.put_config(ClusterConfig("c" * 32, "test"))
        records.put_secret(JoinSecret(b"0123456789abcdef", 0.0))
        for each in (one.first.me, joined.me):
            records.change_host(each.host, lambda _, me=each: ClusterHost(  # type: ignore[misc]
                me.host, me.name, me.address, 1.0, Role.CLIENT))
    return joined


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        act()
    return str(caught.value)


def test_a_host_does_what_its_driver_and_keeper_need(one: RealCluster, host: RealHost) -> None:
    with EtcdKeyValue(host.settings()) as kv:
        assert kv.commit([], [Put(keys.ROOT + "a", b"1")])
        assert kv.get(keys.ROOT + "a")
        assert kv.commit([], [Delete(keys.ROOT + "a")])
        assert trouble(kv) == ""
        stream = kv.stream(keys.ROOT)
        stream.watch(keys.ROOT, 1)
        assert stream.next()
        stream.close()
        records = ClusterRecords(kv)
        assert records.config() == ClusterConfig("c" * 32, "test")
        assert len(records.hosts()) == 2
        lease = kv.lease(30)
        records.tell_alive(host.me.host, lease.id)
        assert lease.keep_alive()
        assert host.me.host in records.alive()
        lease.revoke()
        assert host.me.host not in records.alive()
    members = one.members("host", host)
    assert [member.name for member in members.list_members()] == [one.first.me.host]
    assert members.health(members.list_members())
    members.close()


@pytest.mark.parametrize("several", [False, True], ids=["one endpoint", "several"])
def test_a_host_may_do_nothing_else(one: RealCluster, host: RealHost, several: bool) -> None:
    """Neither read the token's secret nor write what the cluster or other hosts say."""
    settings = host.settings()
    if several:  # a write is then preceded by a read
        settings = replace(settings, endpoints=settings.endpoints * 2, endpoints_file="")
    with one.root() as root:
        before = root.range("/slim-cluster/").entries
    with EtcdKeyValue(settings) as kv:
        records = ClusterRecords(kv)
        for act in (
                records.secret,
                lambda: kv.range(keys.CLUSTER_SECRETS),
                lambda: kv.range(keys.CLUSTER_ROOT),
                lambda: kv.range("/"),
                lambda: kv.get("/elsewhere"),
                lambda: records.put_secret(JoinSecret(b"x" * 16, 0.0)),
                lambda: records.put_config(ClusterConfig("d" * 32, "mine")),
                lambda: kv.commit([], [Put(keys.cluster_host(host.me.host), b"x")]),
                lambda: kv.commit([], [Delete(keys.cluster_host(one.first.me.host))]),
                lambda: kv.commit([], [Put(keys.CLUSTER_HOSTS + "new", b"x")]),
                lambda: records.tell_alive(one.first.me.host, 0),
                lambda: kv.commit([], [Delete(keys.cluster_alive(one.first.me.host))]),
                lambda: kv.commit([], [Put(keys.cluster_alive(host.me.host) + "x", b"")]),
                lambda: kv.commit([], [Put(keys.ROOT + "a", b""), Put("/slim/v2/a", b"")]),
                lambda: kv.commit([], [Put("/other", b"x")])):
            assert "permission denied" in refused(act)
    with one.root() as root:
        assert root.range("/slim-cluster/").entries == before
        assert root.get(keys.ROOT + "a") is None


def test_a_host_hears_nothing_of_secrets(one: RealCluster, host: RealHost) -> None:
    """Not by a watch on them, nor by one on all keys."""
    with EtcdKeyValue(host.settings()) as kv:
        for prefix in (keys.CLUSTER_SECRETS, "/"):
            stream = kv.stream(keys.ROOT)
            stream.watch(prefix, 1)
            try:
                news = stream.next()
            except WatchLost as error:
                assert "permission denied" in str(error)  # noqa: PT017 - or as news
            else:
                assert news is not None
                assert "permission denied" in news.ended
                assert not news.changes
            stream.close()


def test_a_host_manages_neither_members_nor_users(one: RealCluster, host: RealHost,
                                                  tmp_path: Path) -> None:
    members = one.members("host", host)
    ctl = Etcdctl(host.settings())
    listed = members.list_members()
    for act in (
            lambda: members.add_learner("127.0.1.77"),
            lambda: members.remove(listed[0].id),
            lambda: ctl("member", "update", f"{listed[0].id:x}", "--peer-urls=https://10.0.0.1:1"),
            lambda: ctl("user", "grant-role", HOST_PREFIX + host.me.host, "root"),
            lambda: ctl("user", "add", "me", "--no-password"),
            lambda: ctl("role", "grant-permission", "--prefix=true", "slim", "readwrite", "/"),
            lambda: members.promote(listed[0].id),
            lambda: ctl("auth", "disable"),
            lambda: ctl("snapshot", "save", str(tmp_path / "stolen.db")),
            lambda: members.defragment(listed[0].client_urls[0])):
        assert "permission denied" in refused(act)
    assert members.list_members() == listed
    assert not (tmp_path / "stolen.db").exists()
    members.close()


def with_files(folder: ClusterFolder, name: str, issued: Issued | None, settings: EtcdSettings
               ) -> EtcdSettings:
    if issued is None:
        return replace(settings, cert="", key="")
    folder.put_issued(name, issued)
    return replace(settings, cert=str(folder.path / f"{name}.crt"),
                   key=str(folder.path / f"{name}.key"))


def test_who_has_no_certificate_of_a_known_host_is_refused(one: RealCluster, tmp_path: Path
                                                           ) -> None:
    folder = ClusterFolder(tmp_path)
    name = HOST_PREFIX + one.first.me.host
    other, own = new_authority("test"), one.authority
    for number, issued in enumerate((
            None, other.issue(name, Usage.CLIENT, seconds=HOUR_S),
            other.issue("root", Usage.CLIENT, seconds=HOUR_S),
            own.issue(name, Usage.CLIENT, seconds=-1),  # expired
            own.issue(name, Usage.SERVER, seconds=HOUR_S),
            own.issue(HOST_PREFIX + "9" * 32, Usage.CLIENT, seconds=HOUR_S))):
        settings = with_files(folder, f"x{number}", issued, one.first.settings())
        with EtcdKeyValue(settings, call_s=3) as kv:
            refused(lambda: kv.get(keys.ROOT + "a"))
            refused(lambda: kv.commit([], [Put(keys.ROOT + "a", b"1")]))
    with EtcdKeyValue(replace(one.first.settings(), cert="", key="", endpoints=tuple(
            url.replace("https", "http") for url in one.first.settings().endpoints),
            endpoints_file=""), call_s=1) as kv:
        refused(lambda: kv.get(keys.ROOT + "a"))


def test_members_certificates_are_no_users(one: RealCluster) -> None:
    """That of etcd's peers, and that of a server, open no records."""
    for name in ("peer", "etcd"):
        with EtcdKeyValue(one.first.settings(name), call_s=2) as kv:
            refused(lambda: kv.get(keys.ROOT + "a"))


def test_a_removed_host_is_refused_with_the_same_certificate(one: RealCluster) -> None:
    gone, members = one.host(), one.members()
    members.add_user(gone.me.host)
    with EtcdKeyValue(gone.settings()) as kv:
        assert kv.commit([], [Put(keys.ROOT + "gone", b"1")])
        members.remove_user(gone.me.host)
        refused(lambda: kv.get(keys.ROOT + "gone"))
        refused(lambda: kv.commit([], [Put(keys.ROOT + "gone", b"2")]))
    with EtcdKeyValue(gone.settings()) as kv:
        refused(lambda: kv.get(keys.ROOT + "gone"))
        members.remove_user(gone.me.host)  # idempotent
        members.add_user(gone.me.host)  # it joins again
        members.add_user(gone.me.host)
        members.begin_auth()  # as `slim cluster init`, typed again
        assert kv.get(keys.ROOT + "gone")
    members.close()


@pytest.mark.parametrize(("who", "comes_in"), [
    ("host", False), ("root", False), ("etcd", False), ("peer", True)])
def test_only_members_get_in_among_members(one: RealCluster, host: RealHost, who: str,
                                           comes_in: bool) -> None:
    """Whoever could speak to the peer port could be a member, with or without a vote."""
    folder = host.folder.path if who == "host" else one.first.folder.path
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / f"{who}.crt", folder / f"{who}.key")
    address, port = peer_url(one.first.me.address).partition("//")[2].split(":")
    try:
        with (socket.create_connection((address, int(port)), 10, (address, 0)) as raw,
              context.wrap_socket(raw, server_hostname=address) as connection):
            connection.sendall(b"GET /members HTTP/1.0\r\nHost: x\r\n\r\n")
            answered = connection.recv(12)
    except OSError:
        answered = b""
    assert (answered == b"HTTP/1.0 200") == comes_in


def test_there_is_no_second_way_in(one: RealCluster) -> None:
    """etcd's JSON gateway would let in whom the client's certificate does not name."""
    folder = one.first.folder.path
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "host.crt", folder / "host.key")
    address, port = one.first.settings().endpoints[0].partition("//")[2].split(":")
    with (socket.create_connection((address, int(port)), 10) as raw,
          context.wrap_socket(raw, server_hostname=address) as connection):
        connection.sendall(b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                           b"Content-Length: 14\r\n\r\n{\"key\":\"AA==\"}")
        assert connection.recv(12) == b"HTTP/1.1 404"


def test_the_prefix_of_a_role_ends_where_it_should() -> None:
    assert prefix_end(keys.ROOT) == b"/slim/v10"
    assert not keys.CLUSTER_ROOT.startswith(keys.ROOT)


def test_what_is_asked_of_an_etcd_that_is_away(tmp_path: Path, one: RealCluster) -> None:
    away = replace(one.first.settings("root"), endpoints=("https://127.0.1.250:1",),
                   endpoints_file="")
    members = EtcdMembers(away)
    refused(members.list_members)
    refused(lambda: members.remove(1))
    assert members.health(one.members().list_members())  # it asks each where it is
    members.close()
