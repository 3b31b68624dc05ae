"""TLS and login of driver.store.client, against a real etcd that demands them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from driver.errors import SettingsError, StoreUnavailable
from driver.store.client import EtcdKeyValue, EtcdSettings
from driver.store.connection import rpc
from driver.store.kv import Put
from tests.support.etcd import Etcd
from tests.support.wait import wait_until


def certificates(folder: Path) -> tuple[str, str, str]:
    """CA, certificate and key (for server and client) as PEM files."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing (Debian package openssl)")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca",
            "-days", "2")
    openssl("req", *new_key, "-keyout", "one.key", "-out", "one.csr", "-subj", "/CN=one")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "one.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", "one.pem", "-days", "2", "-extfile", "names")
    return str(folder / "ca.pem"), str(folder / "one.pem"), str(folder / "one.key")


def test_tls_with_client_certificate(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    with Etcd(tmp_path, tls=files) as server:
        with EtcdKeyValue(server.settings()) as kv:
            assert kv.commit([], [Put("/a", b"1")])
            watch = kv.watch("/a", 1)
            assert watch.next()
            watch.close()
        for wrong in (replace(server.settings(), cert="", key=""),
                      EtcdSettings(endpoints=(server.url.replace("https", "http"),)),
                      replace(server.settings(), ca="")):
            with EtcdKeyValue(wrong, call_s=1) as kv, pytest.raises(StoreUnavailable):
                kv.get("/a")
        missing = replace(server.settings(), ca=str(tmp_path / "none.pem"))
        with EtcdKeyValue(missing) as kv, pytest.raises(StoreUnavailable, match=r"none\.pem"):
            kv.get("/a")


@pytest.fixture
def guarded(own_etcd: Etcd) -> Iterator[Etcd]:
    """An etcd with authentication on, and one user: root, password right."""
    with grpc.insecure_channel(f"127.0.0.1:{own_etcd.port}") as channel:
        auth = rpc.AuthStub(channel)
        auth.UserAdd(rpc.AuthUserAddRequest(name="root", password="right"), 5)
        auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"), 5)
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"), 5)
        auth.AuthEnable(rpc.AuthEnableRequest(), 5)
    return own_etcd


def test_login(guarded: Etcd) -> None:
    with EtcdKeyValue(guarded.settings(user="root", password="right")) as kv:
        assert kv.commit([], [Put("/a", b"1")])
        lease = kv.lease(10)
        assert lease.keep_alive()
        lease.revoke()
        watch = kv.watch("/a", 1)
        assert watch.next()
        watch.close()
    wrong = guarded.settings(user="root", password="wrong")
    with EtcdKeyValue(wrong) as kv, pytest.raises(StoreUnavailable, match="password"):
        kv.get("/a")
    with EtcdKeyValue(guarded.settings()) as kv, pytest.raises(StoreUnavailable, match="user name"):
        kv.get("/a")


def test_expired_login_is_renewed(guarded: Etcd) -> None:
    with EtcdKeyValue(guarded.settings(user="root", password="right")) as kv:
        assert kv.commit([], [Put("/a", b"1")])
        guarded.stop()
        guarded.start()  # it has forgotten its tokens
        wait_until(lambda: reachable(kv), 10, "a read with a new token")
        assert kv.commit([], [Put("/a", b"2")])


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
