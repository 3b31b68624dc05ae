"""A machine on which `slim cluster` is typed: real files, its programs and etcd replaced by fakes.

etcd's data is a folder whose file `db` names a store: what is moved or removed shows.  Each call
of a program or of etcd, each rename and each removal is a step, at which the command can fail or
be killed.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from driver.cluster import host as host_module
from driver.cluster.authority import HOST_PREFIX
from driver.cluster.changes import founding, saving
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.host import ThisHost
from driver.cluster.model import ClusterHost, Member, MemberHealth, Role, client_url, peer_url
from driver.cluster.programs import ProgramFailed
from driver.cluster.records import ClusterConfig, ClusterRecords
from driver.cluster.services import DRIVER, ETCD, KEEPER
from driver.errors import StoreUnavailable
from driver.store.etcd.connection import EtcdSettings
from driver.store.kv.protocol import Entry, Put
from tests.support.fakes.kv import FakeStore
from tests.support.faults.steps import How, Killed, Spoil, Steps
from tests.unit.cluster.test_keeper import Kv

HERE = "192.0.2.1"
HOST = "1" * 32
KEY = "/slim/v1/what/the/driver/has"
STEPS_MAX = 120


class Machine:
    """One machine.  etcd: the store that is served, and whether over TLS; None: it is stopped."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.steps = Steps()
        self.numbers = itertools.count(1)
        self.stores: dict[str, EtcdStore] = {}
        self.etcd: tuple[str, bool] | None = None
        self.running: set[str] = set()
        self.said: list[str] = []
        self.etcd_starts = self.etcd_answers = self.driver_starts = True
        services: Any = self.steps.watch(self, "services", lambda _: ProgramFailed)
        self.here = ThisHost(ClusterFolder(path / "cluster"), services, path / "etcd",
                             path / "up.env", "socket")
        self._patch(patch)

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        for module in (founding, saving):
            patch.setattr(module, "EtcdKeyValue", lambda settings: Opened(self, settings))
            patch.setattr(module, "EtcdMembers", lambda settings: self.steps.watch(
                Members(self, settings), "members", lambda _: StoreUnavailable, free=("close",)))
            patch.setattr(module, "Etcdctl", lambda settings: lambda *arguments, **_: self.step(
                f"etcdctl {' '.join(arguments[:2])}", StoreUnavailable,
                lambda: self.etcdctl(settings, arguments)))
        patch.setattr(saving, "OneMember", lambda _, settings: SimpleNamespace(
            close=lambda: None, snapshot=lambda write, _: self.step(
                "begin of the snapshot", StoreUnavailable,
                lambda: self.snapshot(settings, write))))
        patch.setattr(saving, "run", lambda argv, **_: self.step(
            "etcdctl snapshot restore", ProgramFailed, lambda: self.restore(argv)))
        patch.setattr(host_module, "OneMember", lambda _, settings: SimpleNamespace(
            close=lambda: None, status=lambda: self.step(
                "status", StoreUnavailable, lambda: self.reach(settings) and {"leader": 1})))
        patch.setattr(host_module, "driver_answers", lambda _: DRIVER in self.running)
        patch.setattr(host_module, "LOOK_S", 0.001)
        patch.setattr(os, "fsync", lambda _: None)  # no test cuts the power, and it takes time
        rename, rmtree, link, unlink = Path.rename, shutil.rmtree, os.link, Path.unlink

        def renamed(path: Path, target: Path) -> Any:
            if not path.is_relative_to(self.path):
                return rename(path, target)
            return self.step(f"rename {path.name}", OSError, lambda: rename(path, target))

        def removed(path: Any, *arguments: Any, **options: Any) -> None:
            if Path(path).is_relative_to(self.path) and self.steps.spoil.how is How.KILLED:
                self.step("rmtree", OSError, lambda: rmtree(path, *arguments, **options))
            else:
                rmtree(path, *arguments, **options)

        def unlinked(path: Path, missing_ok: bool = False) -> None:
            if self.steps.dead:  # who was killed tidies nothing up
                raise Killed
            unlink(path, missing_ok)

        patch.setattr(Path, "unlink", unlinked)
        patch.setattr(os, "link", lambda source, path, **options: self.step(
            f"link {Path(path).name}", OSError, lambda: link(source, path, **options)))
        patch.setattr(Path, "rename", renamed)
        patch.setattr(shutil, "rmtree", removed)

    def step(self, name: str, error: type[Exception], act: Callable[[], Any]) -> Any:
        return self.steps.step(name, error, act)

    def spoilt(self, at: int, how: How, command: Callable[[], object]
               ) -> tuple[bool, Exception | None]:
        """Type a command, spoilt at one step; tell whether it has that step, and what it raised."""
        self.steps.dead = False
        self.steps.begin(Spoil(at, how))
        error: Exception | None = None
        try:
            command()
        except Killed:
            pass
        except Exception as caught:
            error = caught
        reached = self.steps.reached
        self.steps.dead = False
        self.steps.spoil = Spoil(0, How.FAILS)
        return reached, error

    # ------------------------------------------------------------------- Services
    def start(self, name: str) -> None:
        if name == ETCD and self.etcd is None and self.etcd_starts:
            self.etcd = (self.data_store(), self.here.folder.is_member)
        if name != DRIVER or self.driver_starts:
            self.running.add(name)

    def restart(self, name: str) -> None:
        self.start(name)

    def stop(self, name: str) -> None:
        if name == ETCD:
            self.etcd = None
        self.running.discard(name)

    def log_of(self, name: str) -> str:
        return name

    # ----------------------------------------------------------------------- etcd
    def data_store(self) -> str:
        """The name of the store in etcd's folder; an empty one comes with the folder."""
        file = self.here.data / "member" / "db"
        if not file.exists():
            self.put_data(self.here.data, EtcdStore())
        return file.read_text()

    def put_data(self, data: Path, store: EtcdStore) -> str:
        name = f"store {next(self.numbers)}"
        self.stores[name] = store
        (data / "member").mkdir(parents=True)
        (data / "member" / "db").write_text(name)
        return name

    def reach(self, settings: EtcdSettings) -> EtcdStore:
        """What a client comes to: the certificates of both must be right."""
        url = settings.endpoints[0]
        if (self.etcd is None or self.etcd[1] != url.startswith("https")
                or (self.etcd[1] and not self.etcd_answers)):
            raise StoreUnavailable(f"nothing answers at {url} (fake)")
        name, tls = self.etcd
        store = self.stores[name]
        if tls:
            ca, *pair = (Path(path).read_bytes()
                         for path in (settings.ca, settings.cert, settings.key))
            common, folder = common_name(ca, *pair), self.here.folder
            if not common or not common_name(
                    ca, folder.read("etcd.crt"), folder.read("etcd.key")):
                raise StoreUnavailable("a certificate is not right (fake)")
            if store.auth and common not in store.users | {"root"}:
                raise StoreUnavailable("permission denied (fake)")
        return store

    def etcdctl(self, settings: EtcdSettings, arguments: tuple[str, ...]) -> Any:
        store = self.reach(settings)
        if arguments[:2] == ("member", "list"):
            return {"members": [{"ID": 0xabc}]}
        if arguments[:2] == ("member", "update"):
            assert arguments[2] == "abc"
            store.peer = arguments[3].removeprefix("--peer-urls=")
        elif arguments == ("alarm", "disarm"):
            store.alarms.clear()
        return None

    def snapshot(self, settings: EtcdSettings, write: Callable[[bytes], object]) -> None:
        """It comes in two parts: who is killed between them has the first."""
        store = self.reach(settings)
        saved = json.dumps({
            "auth": store.auth, "users": sorted(store.users), "entries": [
                [key, entry.value.decode()] for key, (entry, _) in store.entries.items()]}).encode()
        write(saved[:100])
        self.step("snapshot", StoreUnavailable, lambda: write(saved[100:]))

    def restore(self, argv: list[str]) -> None:
        assert argv[1:3] == ["snapshot", "restore"]
        saved = json.loads(Path(argv[3]).read_text())
        data = Path(argv[argv.index("--data-dir") + 1])
        assert not data.exists(), "etcdctl refuses a folder that is there"
        store = EtcdStore()
        store.auth, store.users = saved["auth"], set(saved["users"])
        store.peer = argv[argv.index("--initial-advertise-peer-urls") + 1]
        store.token = argv[argv.index("--initial-cluster-token") + 1]
        for key, value in saved["entries"]:
            store.put(Entry(key, value.encode(), 1), 0)
        self.put_data(data, store)

    # -------------------------------------------------------------------- what is so
    def served(self) -> EtcdStore:
        """What etcd here has, as the driver and root come to it."""
        assert self.reach(self.here.folder.etcd_settings()) is self.reach(
            self.here.folder.etcd_settings("root"))
        return self.reach(self.here.folder.etcd_settings())

    def records(self) -> ClusterRecords:
        return ClusterRecords(Kv(self.served()))

    def stored_in(self, data: Path) -> EtcdStore:
        return self.stores[(data / "member" / "db").read_text()]

    @property
    def is_complete(self) -> bool:
        """Whether this host is in a cluster, and not half."""
        return self.here.folder.exists and self.here.folder.identity().complete

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.path.rglob("*") if path.is_file()}

    def assert_whole(self, me: Identity) -> None:
        """It is in a cluster of its own, with all that belongs to that, and nothing half-done."""
        folder = self.here.folder
        assert folder.identity() == me
        assert me.complete
        assert self.running == {DRIVER, ETCD, KEEPER}
        store, records = self.served(), self.records()
        assert store.auth
        assert HOST_PREFIX + me.host in store.users
        config, host = records.config(), records.host(me.host)
        assert config is not None
        assert host is not None
        assert (config.id, config.generation) == (me.cluster, me.generation)
        assert (host.address, host.role) == (me.address, Role.MEMBER)
        assert folder.endpoints() == (client_url(me.address),)
        assert folder.authority().certificate == folder.read("ca.crt")
        assert "ETCD_INITIAL_CLUSTER_STATE=new\n" in folder.read("etcd.env").decode()
        assert not (self.path / "up.env").read_text()
        assert not list(self.path.glob("**/*.new"))


class EtcdStore(FakeStore):
    """With what etcd knows beside keys."""

    def __init__(self) -> None:
        super().__init__()
        self.users: set[str] = set()
        self.auth = False
        self.peer = self.token = ""
        self.alarms: list[str] = []


class Opened:
    """EtcdKeyValue: a context manager."""

    def __init__(self, machine: Machine, settings: EtcdSettings) -> None:
        self._machine, self._settings = machine, settings

    def __enter__(self) -> Any:
        machine, settings = self._machine, self._settings

        class Reached(Kv):
            def _open(self) -> FakeStore:
                machine.reach(settings)
                return super()._open()

            def alarms(self) -> list[str]:
                return machine.reach(settings).alarms

        away = EtcdStore()
        return machine.steps.watch(
            Reached(machine.stores[machine.etcd[0]] if machine.etcd else away), "kv",
            lambda _: StoreUnavailable)

    def __exit__(self, *_: object) -> None:
        pass


class Members:
    """EtcdMembers."""

    def __init__(self, machine: Machine, settings: EtcdSettings) -> None:
        self._reach = lambda: machine.reach(settings)
        self.defragmented: list[str] = []

    def close(self) -> None:
        pass

    def begin_auth(self) -> None:
        self._reach().auth = True

    def add_user(self, host: str) -> None:
        self._reach().users.add(HOST_PREFIX + host)

    def remove_user(self, host: str) -> None:
        self._reach().users.discard(HOST_PREFIX + host)

    def list_members(self) -> tuple[Member, ...]:
        self._reach()
        return (Member(1, HOST, (peer_url(HERE),), (client_url(HERE),)),)

    def health(self, _: object) -> dict[int, MemberHealth]:
        self._reach()
        return {1: MemberHealth("3.4", 0, 0, 1, False)}

    def defragment(self, url: str) -> None:
        self._reach()
        self.defragmented.append(url)


def another_folder(parent: Path, patch: pytest.MonkeyPatch) -> Path:
    """Return a new folder, for the next machine of a test; what the last one patched is undone."""
    patch.undo()
    path = parent / str(len(list(parent.iterdir())))
    path.mkdir()
    return path


@cache
def common_name(ca: bytes, certificate: bytes, key: bytes) -> str:
    """Whose certificate this is; "": it is not of that CA, or the key is another one's."""
    authority, own = map(x509.load_pem_x509_certificate, (ca, certificate))
    private = serialization.load_pem_private_key(key, None)
    try:
        own.verify_directly_issued_by(authority)
    except Exception:
        return ""
    return "" if own.public_key() != private.public_key() else str(
        own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def with_records(store: EtcdStore, config: ClusterConfig, *hosts: ClusterHost) -> EtcdStore:
    records = ClusterRecords(Kv(store))
    records.put_config(config)
    for host in hosts:
        records.change_host(host.id, lambda _, host=host: host)  # type: ignore[misc]
    return store


def with_key(store: EtcdStore) -> EtcdStore:
    Kv(store).commit([], [Put(KEY, b"x")])
    return store
