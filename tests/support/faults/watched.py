"""Provides stores whose streams can be cut and that can go back in time: the fake, a real etcd.

tests/contract holds the streams of store/kv, and store/feeds, to both.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.kv.protocol import Change, Entry, KeyValue, Moment, Put, WatchedKeyValue
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.faults.relay import Relay
from tests.support.run.wait import wait_until
from tests.support.world.etcd import Etcd


class World(Protocol):
    """`kv` is the client under test; `other` is never cut off."""

    kv: WatchedKeyValue
    other: FakeKeyValue | EtcdKeyValue

    def cut(self) -> None:
        """End all connections of `kv`; it cannot connect until `mend`."""

    def mend(self) -> None: ...

    def save(self) -> None:
        """Take a snapshot."""

    def restore(self) -> None:
        """Go back to the snapshot.  All connections end."""

    def replace(self) -> None:
        """Become another, empty cluster.  All connections end."""

    def streams(self) -> int:
        """Return how many streams were opened since the store started."""


class FakeWorld:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.kv = _Cut(self.store)
        self.other = FakeKeyValue(self.store)
        self._saved = self.store.snapshot()

    def cut(self) -> None:
        self.kv.away = True
        self.store.break_streams()

    def mend(self) -> None:
        self.kv.away = False

    def save(self) -> None:
        self._saved = self.store.snapshot()

    def restore(self) -> None:
        self.store.restore(self._saved)

    def replace(self) -> None:
        self.store.cluster += 1
        self.store.restore((1, {}, []))

    def streams(self) -> int:
        return self.store.streams


class _Cut(FakeKeyValue):
    """One of several clients; only this one can be cut off."""

    away = False

    def _open(self) -> FakeStore:
        if self.away:
            raise StoreUnavailable("etcd is cut off (fake)")
        return super()._open()


class EtcdWorld:
    """Context manager.  `kv` reaches a server of its own through a relay."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self.server = Etcd(folder, arguments=arguments)
        self._stack = ExitStack()

    def __enter__(self) -> EtcdWorld:
        enter = self._stack.enter_context
        enter(self.server)
        self._relay = enter(Relay("127.0.0.1", self.server.port))
        self.kv = enter(EtcdKeyValue(
            EtcdSettings(endpoints=(f"http://127.0.0.1:{self._relay.port}",))))
        self.other = enter(EtcdKeyValue(self.server.settings()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self) -> None:
        self._relay.refuse()

    def mend(self) -> None:
        self._relay.mend()

    def save(self) -> None:
        self.server.stop()
        shutil.copytree(self._folder / "data", self._folder / "saved")
        self._start()

    def restore(self) -> None:
        self.server.stop()
        shutil.rmtree(self._folder / "data")
        shutil.copytree(self._folder / "saved", self._folder / "data")
        self._start()

    def replace(self) -> None:
        self.server.stop()
        shutil.rmtree(self._folder / "data")
        self.server.arguments += ("--initial-cluster-token", "another")
        self._start()

    def _start(self) -> None:
        self.server.start()
        wait_until(self._reached, 20, "the other client is connected again")

    def _reached(self) -> bool:
        try:
            self.other.get("/x")
        except StoreUnavailable:
            return False
        return True

    def streams(self) -> int:
        return int(self.server.metric('grpc_server_started_total{grpc_method="Watch"'))


class Heard:
    """A FeedListener that keeps what it was told, and the entries that follow from that."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        """before: called first in each call."""
        self._before = before
        self.lists: list[int] = []  # their revisions
        self.changes: list[Change] = []
        self.now: dict[str, tuple[bytes, int]] = {}  # value, revision

    def listed(self, entries: Sequence[Entry], revision: int) -> None:
        self._before()
        self.now = {entry.key: (entry.value, entry.mod_revision) for entry in entries}
        self.lists.append(revision)

    def changed(self, changes: Sequence[Change]) -> None:
        self._before()
        for change in changes:
            if change.value is None:
                self.now.pop(change.key, None)
            else:
                self.now[change.key] = (change.value, change.mod_revision)
        self.changes.extend(changes)

    def values(self) -> list[bytes | None]:
        return [change.value for change in self.changes]


def held(world: World, prefix: str) -> dict[str, tuple[bytes, int]]:
    """Return the store's entries in the form of `Heard.now`."""
    return {entry.key: (entry.value, entry.mod_revision)
            for entry in world.other.range(prefix).entries}


class Back:
    """Collects what `went_back` is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Moment, Moment]] = []

    def __call__(self, before: Moment, now: Moment) -> None:
        self.told.append((before, now))


def put(kv: KeyValue, key: str, value: bytes = b"v") -> int:
    revision = kv.commit([], [Put(key, value)])
    assert revision
    return revision


def in_step(world: World, heard: dict[str, Heard]) -> bool:
    return all(each.now == held(world, prefix) for prefix, each in heard.items())
