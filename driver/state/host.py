"""Reads and writes the files that describe this host: id, cluster, lock, password, cgroup2 mount.

They are below --state, but for the password and the mount table.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

from driver.errors import SettingsError, StateError
from driver.model import Cluster, HostId
from driver.state import durable

ID_FILE = "host-id"
CLUSTER_FILE = "cluster"
_LOCK_FILE = "lock"
_ID = re.compile(r"[0-9a-f]{32}")


def host_id(state: Path, random_bytes: Callable[[int], bytes] = os.urandom, *,
            known: HostId | None = None) -> HostId:
    """Return this host's id, 32 hex digits; made at the first call, kept durably in folder `state`.

    known: the id to use if the folder has none.
    Error: SettingsError (folder cannot be used, file damaged).
    """
    kept = kept_id(state)
    if kept is not None:
        return kept
    made = known or HostId(random_bytes(16).hex())
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.write(state / ID_FILE, made + "\n")
    except OSError as error:
        raise SettingsError(f"--state={state}: cannot keep the host's id there: {error}") from error
    return made


def kept_id(state: Path) -> HostId | None:
    """Return the host's id if folder `state` has it.  Error: SettingsError (file damaged)."""
    path = state / ID_FILE
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--state={state}: cannot keep the host's id there: {error}") from error
    if not _ID.fullmatch(text):
        raise SettingsError(f"{path} does not hold 32 hex digits; restore it, or remove it if this "
                            "host has no slim networks")
    return HostId(text)


class ClusterFile:
    """store.hosts.cluster.Membership: the cluster's id and name, one durable line in `state`."""

    def __init__(self, state: Path) -> None:
        self._path = state / CLUSTER_FILE

    def get(self) -> Cluster | None:
        """Return the cluster; None: this host has belonged to none yet.  Error: SettingsError."""
        try:
            found, _, name = self._path.read_text(encoding="utf-8").strip().partition(" ")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{self._path}: {error}") from error
        if not _ID.fullmatch(found):
            raise SettingsError(f"{self._path} does not hold 32 hex digits and a name; if --etcd "
                                "is right, `slim adopt-cluster` writes it anew")
        return Cluster(found, name)

    def put(self, cluster: Cluster) -> None:
        """Store the cluster.  Error: SettingsError."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self._path, f"{cluster.id} {cluster.name}\n")
        except OSError as error:
            raise SettingsError(f"{self._path}: {error}") from error


def new_cluster(random_bytes: Callable[[int], bytes] = os.urandom) -> Cluster:
    """Return a name for a cluster that begins on this host."""
    return Cluster(random_bytes(16).hex(), socket.gethostname())


def lock_state(state: Path) -> int:
    """Lock folder `state` against other drivers; return the lock, which ends with the process.

    Two drivers with one host id would each give out the same endpoint ports.
    Error: SettingsError.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"--state={state}: cannot be used: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise SettingsError(f"--state={state}: another driver runs with it; stop that one first"
                            ) from error
    return lock


def cgroup2_mount(mounts: str = "/proc/self/mounts") -> Path:
    """Return where cgroup v2 is mounted: alone, or beside v1.  Error: SettingsError."""
    for line in Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1])
    raise SettingsError("no cgroup2 file system is mounted; mount one "
                        "(mount -t cgroup2 none /sys/fs/cgroup/unified) or name it with --cgroup")


def read_password(path: str) -> str:
    """Return the first line of a file, empty for no path.  Error: SettingsError."""
    if not path:
        return ""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--etcd-password-file={path}: {error}") from error
    if not lines or not lines[0]:
        raise SettingsError(f"--etcd-password-file={path}: the first line is empty")
    return lines[0]


class Forgotten:
    """Marks that a person has had this host forgotten, until it has given up all it had."""

    def __init__(self, state: Path) -> None:
        """Keep the mark in folder `state`.  Error of all methods: StateError."""
        self._path = state / "forgotten"

    def begin(self) -> None:
        """Set the mark, durably."""
        try:
            durable.write(self._path, "")
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror or error}") from error

    def is_begun(self) -> bool:
        """Tell whether the mark is set."""
        return self._path.exists()

    def end(self) -> None:
        """Remove the mark.  Idempotent."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror or error}") from error
