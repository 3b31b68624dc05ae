"""Tests TLS and login of driver.store.etcd.client against a real etcd that demands them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from driver.doctor.finding import CheckError
from driver.doctor.outside import check_etcd
from driver.errors import SettingsError, StoreUnavailable
from driver.settings import load
from driver.state.host import read_password
from driver.store.etcd import connection, watch
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.etcd.connection import rpc
from driver.store.etcd.health import describe, trouble
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.kv.protocol import Delete, News, OutcomeUnknown, Put, Stream, Unchanged
from driver.store.kv.transaction import prefix_end
from tests.support.faults.watched import Heard
from tests.support.run.wait import wait_until
from tests.support.world.certificates import Authority, install
from tests.support.world.etcd import Etcd


def test_tls_with_client_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("one")
    with Etcd(tmp_path, tls=files) as server:
        with EtcdKeyValue(server.settings()) as kv:
            assert kv.commit([], [Put("/a", b"1")])
            assert followed(kv)
        for wrong in (replace(server.settings(), cert="", key=""),
                      EtcdSettings(endpoints=(server.url.replace("https", "http"),)),
                      replace(server.settings(), ca="")):
            with EtcdKeyValue(wrong, call_s=1) as kv, pytest.raises(StoreUnavailable):
                kv.get("/a")
        missing = replace(server.settings(), ca=str(tmp_path / "none.pem"))
        with EtcdKeyValue(missing) as kv, pytest.raises(StoreUnavailable, match=r"none\.pem"):
            kv.get("/a")


def followed(kv: EtcdKeyValue) -> News | None:
    """Return the first news of a watch whose key has a change."""
    stream = kv.stream("/a")
    stream.watch("/a", 1)
    news = stream.next()
    stream.close()
    return news


def refused(kv: EtcdKeyValue) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        kv.get("/a")
    return str(caught.value)


def test_certificates_are_replaced(tmp_path: Path) -> None:
    """All parties' files are replaced, one after the other; one client goes on throughout."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    files, others = old.issue("now"), new.issue("now")
    mine = Authority(tmp_path / "mine").issue("now")
    install(files, mine)
    with Etcd(tmp_path, tls=files) as server, EtcdKeyValue(replace(
            server.settings(), ca=mine[0], cert=mine[1], key=mine[2])) as kv:
        assert kv.commit([], [Put("/a", b"1")])

        # The same CA.  etcd reads its files at each connection.
        install(old.issue("next")[1:], files[1:])
        install(old.issue("own")[1:], mine[1:])
        server.stop()
        server.start()
        assert kv.get("/a")

        install(old.issue("late", days=-1)[1:], files[1:])
        restart_unseen(server)
        wait_until(lambda: "expired: renew" in refused(kv), 30, "the reason is told")

        install(old.issue("elsewhere", ["127.0.0.9"])[1:], files[1:])
        wait_until(lambda: "not for the address" in refused(kv), 30, "the reason is told")

        install(others, files)
        restart_unseen(server)
        wait_until(lambda: "signed by a CA of --etcd-ca" in refused(kv), 30,
                   "the reason is told")
        install(others[:1], mine[:1])  # our certificate is still from the old CA
        wait_until(lambda: "--etcd-cert and --etcd-key" in refused(kv), 30,
                   "the reason is told")
        install(new.issue("own")[1:2], mine[1:2])  # without its key
        wait_until(lambda: "belong together" in refused(kv), 30, "the reason is told")
        Path(mine[2]).unlink()
        assert "no restart" in refused(kv)
        install(new.issue("own")[1:], mine[1:])
        wait_until(lambda: reachable(kv), 30, "a read with new files")
        assert kv.commit([], [Put("/a", b"2")])


def restart_unseen(server: Etcd) -> None:
    """Restart without waiting for an answer: the test's files might not be accepted."""
    server.stop()
    server.launch()


@pytest.fixture
def guarded(own_etcd: Etcd) -> Iterator[Etcd]:
    """An etcd with authentication: root may do all, slim what it needs; both passwords: right."""
    with grpc.insecure_channel(f"127.0.0.1:{own_etcd.port}") as channel:
        auth = rpc.AuthStub(channel)
        auth.UserAdd(rpc.AuthUserAddRequest(name="root", password="right"), 5)
        auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"), 5)
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"), 5)
        auth.UserAdd(rpc.AuthUserAddRequest(name="slim", password="right"), 5)
        auth.RoleAdd(rpc.AuthRoleAddRequest(name="slim"), 5)
        grant = rpc.AuthRoleGrantPermissionRequest(name="slim")
        grant.perm.permType = 2  # read and write
        grant.perm.key, grant.perm.range_end = keys.ROOT.encode(), prefix_end(keys.ROOT)
        auth.RoleGrantPermission(grant, 5)
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="slim", role="slim"), 5)
        auth.AuthEnable(rpc.AuthEnableRequest(), 5)
    return own_etcd


def test_login(guarded: Etcd) -> None:
    with EtcdKeyValue(guarded.settings(user="root", password="right")) as kv:
        assert kv.commit([], [Put("/a", b"1")])
        lease = kv.lease(10)
        assert lease.keep_alive()
        lease.revoke()
        assert followed(kv)
    wrong = guarded.settings(user="root", password="wrong")
    with EtcdKeyValue(wrong) as kv, pytest.raises(StoreUnavailable, match="password"):
        kv.get("/a")
    with EtcdKeyValue(guarded.settings()) as kv, pytest.raises(StoreUnavailable, match="user name"):
        kv.get("/a")


def test_a_user_with_one_prefix_is_enough(guarded: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is enough also for questions whether etcd lives: before writes, and for silent watches."""
    monkeypatch.setattr(watch, "PROBE_S", 0.1)
    settings = guarded.settings(user="slim", password="right")
    twice = replace(settings, endpoints=settings.endpoints * 2)
    with EtcdKeyValue(twice) as kv:
        assert kv.commit([], [Put(keys.ROOT + "a", b"1")])
        assert "readwrite on the prefix" in refused(kv)
        listing = kv.range(keys.ROOT)
        stream = kv.stream(keys.ROOT)
        stream.watch(keys.ROOT, listing.revision + 1)
        received: list[object] = []
        thread = threading.Thread(target=lambda: received.append(stream.next()))
        thread.start()
        wait_until(lambda: guarded.metric(
            'grpc_server_msg_received_total{grpc_method="Watch"') > 1 + 2 * 3, 30, "probes")
        assert kv.commit([], [Put(keys.ROOT + "a", b"2")])
        thread.join(10)
        stream.close()
        assert received


def test_expired_login_is_renewed(guarded: Etcd) -> None:
    with EtcdKeyValue(guarded.settings(user="root", password="right")) as kv:
        assert kv.commit([], [Put("/a", b"1")])
        guarded.stop()
        guarded.start()  # forgets its tokens
        wait_until(lambda: reachable(kv), 30, "a read with a new token")
        assert kv.commit([], [Put("/a", b"2")])


def test_a_stream_whose_login_has_ended(guarded: Etcd) -> None:
    """Its watches go on; a new one is refused there, and follows after a new login."""
    right = ["right"]
    settings = replace(guarded.settings(user="slim"), password=lambda: right[0])
    a, b = Heard(), Heard()
    with EtcdKeyValue(settings) as kv, EtcdKeyValue(
            guarded.settings(user="root", password="right")) as root:
        feeds = Feeds(kv)
        feeds.follow(keys.ROOT + "a/", a)
        wait_until(lambda: a.lists, 20, "the first list")
        assert root.commit([], [Put(keys.ROOT + "a/1", b"before")])
        wait_until(lambda: a.values() == [b"before"], 20, "the first change")
        # A new password ends the user's logins, as their expiry does.
        right[0] = "changed"
        change_password(guarded, "slim", right[0])
        feeds.follow(keys.ROOT + "b/", b)
        wait_until(lambda: b.lists, 20, "the other list")
        assert root.commit([], [Put(keys.ROOT + "a/1", b"after"), Put(keys.ROOT + "b/1", b"new")])
        wait_until(lambda: b.values() == [b"new"], 20, "the change of the new one")
        wait_until(lambda: a.values() == [b"before", b"after"], 20, "the change of the old one")
        assert len(a.lists) == 1
        feeds.close()


def test_a_new_watch_is_refused_and_the_stream_opened_again(guarded: Etcd) -> None:
    """The list was read with a new login; the stream still has the old one."""
    right = ["right"]
    settings = replace(guarded.settings(user="slim"), password=lambda: right[0])
    with EtcdKeyValue(settings) as old, EtcdKeyValue(settings) as kv:
        streams = [old.stream(keys.ROOT)]
        stream = kv.stream

        def stale(key: str) -> Stream:
            return streams.pop() if streams else stream(key)

        kv.stream = stale  # type: ignore[method-assign]
        feeds, a, b = Feeds(kv), Heard(), Heard()
        feeds.follow(keys.ROOT + "a/", a)
        wait_until(lambda: a.lists and not streams, 20, "the first list")
        right[0] = "changed"
        change_password(guarded, "slim", right[0])
        assert kv.commit([], [Put(keys.ROOT + "a/1", b"1")])
        feeds.follow(keys.ROOT + "b/", b)
        wait_until(lambda: len(b.lists) == 2, 20, "the list after the refusal")
        assert kv.commit([], [Put(keys.ROOT + "a/1", b"2"), Put(keys.ROOT + "b/1", b"new")])
        wait_until(lambda: b.values() == [b"new"], 20, "the change of the new one")
        wait_until(lambda: a.values() == [b"1", b"2"], 20, "the changes of the old one")
        assert len(a.lists) == 1
        feeds.close()


def change_password(server: Etcd, user: str, password: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        auth = rpc.AuthStub(channel)
        token = auth.Authenticate(rpc.AuthenticateRequest(name="root", password="right"), 5).token
        auth.UserChangePassword(rpc.AuthUserChangePasswordRequest(
            name=user, password=password), 5, metadata=(("token", token),))


def test_a_wrong_password_is_corrected(guarded: Etcd, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wrong\n")
    settings = replace(guarded.settings(user="root"),
                       password=lambda: read_password(str(file)))
    with EtcdKeyValue(settings) as kv:
        assert "correct --etcd-user" in refused(kv)
        file.write_text("")
        assert "the first line is empty" in refused(kv)
        file.write_text("right\n")
        assert kv.commit([], [Put("/a", b"1")])
        assert kv.get("/a")


def test_many_log_in_again_at_once(guarded: Etcd) -> None:
    """The first closes the connection that the others use."""
    failures: list[object] = []
    with EtcdKeyValue(guarded.settings(user="root", password="right")) as kv:
        assert kv.commit([], [Put("/a", b"1")])
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                try:
                    kv.get("/a")
                except StoreUnavailable:
                    pass  # it is away
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            guarded.stop()
            guarded.start()
            wait_until(lambda: reachable(kv), 30, "a read with a new token")
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_nobody_waits_longer_than_his_time_for_anothers_login(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd is frozen: the first call waits to log in, and the others still end in time."""
    logging_in, thawed = threading.Event(), threading.Event()

    class Frozen:
        def __init__(self, **_: object) -> None:
            logging_in.set()
            thawed.wait(30)
            raise OSError("it was frozen")

    monkeypatch.setattr(connection.etcd3, "Etcd3Client", Frozen)
    refused_: list[str] = []

    def read(kv: EtcdKeyValue) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            kv.get("/a")
        refused_.append(str(caught.value))

    settings = EtcdSettings(("http://127.0.0.1:1",), user="slim", password="right")
    with EtcdKeyValue(settings, call_s=0.05) as kv:
        threads = [threading.Thread(target=read, args=(kv,)) for _ in range(9)]
        threads[0].start()
        assert logging_in.wait(10)
        for thread in threads[1:]:
            thread.start()
        try:
            wait_until(lambda: len(refused_) == 8, 10, "those who only wait have their answer")
        finally:
            thawed.set()
            for thread in threads:
                thread.join(10)


def fill(kv: EtcdKeyValue) -> None:
    """Put far more than the quota: the server looks at its size only ten times a second."""
    for number in range(10_000):
        kv.commit([], [Put(f"/big/{number % 100}", bytes(50_000))])


def test_a_full_disk(tmp_path: Path) -> None:
    """etcd refuses writes, whose error says what to do; reads and removals go on."""
    with Etcd(tmp_path, arguments=("--quota-backend-bytes", str(1 << 20))) as server, \
            EtcdKeyValue(server.settings(), call_s=20) as kv:
        assert kv.commit([], [Put("/a", b"1")])
        with pytest.raises(StoreUnavailable, match="compact and defragment") as caught:
            fill(kv)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert kv.get("/a")
        assert kv.commit([Unchanged("/none", 0)], [Delete("/a")])
        assert kv.get("/a") is None
        assert "etcdctl alarm disarm" in describe(kv)
        with pytest.raises(CheckError, match="etcdctl alarm disarm"):
            check_etcd(load({"etcd": server.url, "state": str(tmp_path)}, {}))
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            maintenance = rpc.MaintenanceStub(channel)
            alarm, = maintenance.Alarm(rpc.AlarmRequest(), 5).alarms
            kv.commit([], [Delete(f"/big/{number}") for number in range(100)])
            kv.compact(kv.range("/").revision)
            maintenance.Defragment(rpc.DefragmentRequest(), 20)
            maintenance.Alarm(rpc.AlarmRequest(
                action=rpc.AlarmRequest.DEACTIVATE, memberID=alarm.memberID,
                alarm=alarm.alarm), 5)
        assert describe(kv) == "answers, 0 hosts registered"
        assert check_etcd(load({"etcd": server.url, "state": str(tmp_path)}, {}))


def test_trouble_without_an_alarm(guarded: Etcd) -> None:
    """The user may only read."""
    with grpc.insecure_channel(f"127.0.0.1:{guarded.port}") as channel:
        auth = rpc.AuthStub(channel)
        token = auth.Authenticate(rpc.AuthenticateRequest(name="root", password="right"), 5).token
        credentials = (("token", token),)
        auth.UserAdd(rpc.AuthUserAddRequest(name="reader", password="right"), 5,
                     metadata=credentials)
        auth.RoleAdd(rpc.AuthRoleAddRequest(name="reader"), 5, metadata=credentials)
        grant = rpc.AuthRoleGrantPermissionRequest(name="reader")
        grant.perm.permType = 0  # read
        grant.perm.key, grant.perm.range_end = keys.ROOT.encode(), prefix_end(keys.ROOT)
        auth.RoleGrantPermission(grant, 5, metadata=credentials)
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="reader", role="reader"), 5,
                           metadata=credentials)
    with EtcdKeyValue(guarded.settings(user="reader", password="right")) as kv:
        assert "refuses to write" in trouble(kv)
        assert "readwrite on the prefix" in trouble(kv)
    with EtcdKeyValue(guarded.settings(user="slim", password="right")) as kv:
        assert trouble(kv) == ""
        assert kv.range(keys.ROOT).entries == (), "what was tried has not happened"


def reachable(kv: EtcdKeyValue) -> bool:
    try:
        return kv.get("/a") is not None
    except StoreUnavailable:
        return False


@pytest.mark.parametrize("settings", [
    EtcdSettings(endpoints=()),
    EtcdSettings(endpoints=("ftp://x",)),
    EtcdSettings(endpoints=("http://",)),
    EtcdSettings(endpoints=("http://x:2379",), user="u"),
    EtcdSettings(endpoints=("http://x:2379",), cert="c"),
    EtcdSettings(endpoints=("http://x:port",)),
])
def test_settings_that_cannot_work(settings: EtcdSettings) -> None:
    with pytest.raises(SettingsError, match="etcd"):
        EtcdKeyValue(settings)
