"""Keeps notes of what this host has, on its disk, one file per object (services.ports.Notes).

A file is made and renamed in one step, so it is whole or absent.  What must survive a power cut is
synced; what ends with the namespaces of this boot is not, and a power cut may lose it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote, unquote

from driver.errors import StateError, UnsupportedRecord
from driver.model import Endpoint, HostId, Network
from driver.services.ports import HoldNote, PoolNote
from driver.store.format.records import (
    Fields,
    encode,
    endpoint,
    hold_note,
    hold_note_fields,
    local_endpoint_fields,
    network,
    network_fields,
    parse,
    pool_note,
    pool_note_fields,
)

FOLDER = "notes"
_NEW = ".new"
_COMPLETE = ".complete"  # never a note's name: quoting keeps a dot, but no name begins with one

T = TypeVar("T")

log = logging.getLogger(__name__)


class FiledNotes(Generic[T]):
    """The notes of one kind, in a folder of their own.  Values are records as in etcd."""

    def __init__(self, state: Path, host: str, kind: str, *, fields: Callable[[T], Fields],
                 build: Callable[[Fields], T], durable: bool) -> None:
        """Keep the notes in `state`/notes/`host`/`kind`, apart from those of another host id.

        fields, build: inverses of each other (driver/store/format/records.py).
        """
        self._folder = state / FOLDER / quote(host, safe="") / quote(kind, safe="")
        self._fields = fields
        self._build = build
        self._durable = durable

    def put(self, name: str, item: T) -> None:
        """See services.ports.Notes."""
        with _step(f"note {self._folder.name} {name[:24]}"):
            self._write(self._path(name), encode(self._fields(item)))

    def remove(self, name: str) -> None:
        """See services.ports.Notes."""
        with _step(f"remove the note of {self._folder.name} {name[:24]}"):
            self._path(name).unlink(missing_ok=True)
            self._sync_folder()

    def all(self) -> dict[str, T]:
        """See services.ports.Notes."""
        with _step(f"read the notes of {self._folder.name}"):
            try:
                paths = sorted(self._folder.iterdir())
            except FileNotFoundError:
                return {}
            found = {}
            for path in paths:
                if path.name.startswith(".") or path.name.endswith(_NEW):
                    continue
                try:
                    found[unquote(path.name)] = parse(
                        str(path), path.read_bytes(), self._build)
                except UnsupportedRecord as error:
                    log.warning("%s; what runs goes on, and is noted anew from etcd", error)
            return found

    def is_complete(self) -> bool:
        """See services.ports.Notes."""
        return (self._folder / _COMPLETE).exists()

    def complete(self) -> None:
        """See services.ports.Notes."""
        with _step(f"complete the notes of {self._folder.name}"):
            self._write(self._folder / _COMPLETE, b"")

    def _path(self, name: str) -> Path:
        return self._folder / quote(name, safe="")

    def _write(self, path: Path, value: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(path.name + _NEW)
        with new.open("wb") as file:
            file.write(value)
            if self._durable:
                file.flush()
                os.fsync(file.fileno())
        new.replace(path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        if not self._durable or not self._folder.exists():
            return
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@dataclass(frozen=True)
class HostNotes:
    """All notes of a host."""

    networks: FiledNotes[Network]
    endpoints: FiledNotes[Endpoint]
    pools: FiledNotes[PoolNote]
    holds: FiledNotes[HoldNote]


def notes_of(state: Path, host: HostId) -> HostNotes:
    """Return the notes of a host in its state folder.

    Networks and pools are durable: Docker never repeats CreateNetwork, and requests pools when it
    creates a network.  Containers, and with them endpoints and most addresses, end with the
    machine.
    """
    return HostNotes(
        FiledNotes(state, host, "networks", fields=network_fields,
                   build=network, durable=True),
        FiledNotes(state, host, "endpoints", fields=local_endpoint_fields,
                   build=endpoint, durable=False),
        FiledNotes(state, host, "pools", fields=pool_note_fields,
                   build=pool_note, durable=True),
        FiledNotes(state, host, "addresses", fields=hold_note_fields,
                   build=hold_note, durable=False))


@contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"{what}: {error.strerror or error} ({error.filename}): is there space "
                         "in the state folder?") from error
