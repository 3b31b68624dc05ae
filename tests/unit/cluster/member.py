"""A member of a cluster, for tests of `slim cluster backup` and `restore`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.cluster.authority import HOST_PREFIX, Usage, new_authority
from driver.cluster.changes.saving import Restoring, back_up
from driver.cluster.etcd import etcd_member
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import ClusterHost, Role, client_url, peer_url
from driver.cluster.records import ClusterConfig
from driver.cluster.services import DRIVER, ETCD, KEEPER
from driver.store.format import keys
from driver.store.kv.protocol import Put
from tests.unit.cluster.machine import (
    HERE,
    HOST,
    KEY,
    EtcdStore,
    Machine,
    another_folder,
    with_key,
    with_records,
)
from tests.unit.cluster.test_keeper import Kv

CONFIG = ClusterConfig("c" * 32, "test", certificate_s=3600.0)
ME = Identity(CONFIG.id, CONFIG.name, 1, HOST, "one", HERE, complete=True)
TWO = ClusterHost("2" * 32, "two", "192.0.2.2", 2.0, Role.MEMBER)
LATER = "/slim/v1/written/after/the/backup"

MADE: dict[str, bytes] = {}  # a member's folder, once made: certificates take their time


def fill(folder: ClusterFolder) -> None:
    authority = new_authority("test")
    folder.write("ca.crt", authority.certificate)
    folder.write("ca.key", authority.key)
    etcd_member.issue_files(folder, authority, HERE, 3600)
    folder.put_issued("host", authority.issue(HOST_PREFIX + HOST, Usage.CLIENT, seconds=3600))
    folder.write("etcd.env", "")
    folder.put_lines("hosts", (HERE, TWO.address))
    folder.put_lines("endpoints", (client_url(HERE), client_url(TWO.address)))
    folder.put_identity(ME)


class Member(Machine):
    """A member of a cluster, with a backup of it beside."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(path, patch)
        folder = self.here.folder
        if not MADE:
            fill(folder)
            MADE.update({each.name: each.read_bytes() for each in folder.path.iterdir()})
        folder.path.mkdir(exist_ok=True)
        for name, content in MADE.items():
            (folder.path / name).write_bytes(content)
        (path / "up.env").write_text("")
        store = with_key(with_records(EtcdStore(), CONFIG, ClusterHost(
            HOST, "one", HERE, 1.0, Role.MEMBER), TWO))
        store.auth, store.users = True, {HOST_PREFIX + HOST, HOST_PREFIX + TWO.id}
        Kv(store).commit([], [Put(keys.cluster_alive(TWO.id), b"")])
        self.put_data(self.here.data, store)
        for name in (ETCD, KEEPER, DRIVER):
            self.start(name)
        self.backup = path / "backup"
        back_up(folder, self.backup)
        Kv(store).commit([], [Put(LATER, b"y")])

    def lose_majority(self) -> None:
        self.stop(ETCD)

    def restore(self, source: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Type it; or, of the machine, what the program etcdctl does."""
        if isinstance(source, list):
            return super().restore(source)
        return Restoring(self.here, self.said.append).restore(
            source or self.backup, HOST, "one", HERE, **options)

    def assert_restored(self) -> None:
        me = self.here.folder.identity()
        self.assert_whole(me)
        store, records = self.served(), self.records()
        assert (store.peer, store.token) == (peer_url(HERE), f"{me.cluster}-{me.generation}")
        assert me.generation > 1
        assert KEY in store.entries
        assert LATER not in store.entries
        assert records.host(TWO.id) == replace(TWO, role=Role.CLIENT)
        assert records.alive() == frozenset()
        assert self.here.folder.read("hosts").decode().split() == [HERE, TWO.address]
        assert LATER in self.stored_in(self.path / "etcd.old").entries
        assert not self.here.work.exists()


MakeMember = Callable[[], Member]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeMember:
    def made() -> Member:
        path = another_folder(tmp_path, monkeypatch)
        return Member(path, monkeypatch)

    return made
