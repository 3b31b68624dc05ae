"""Keeps what this host has of the cluster in files, below /etc/slim/cluster by default.

The folder is root's alone (0700).  It comes to be, and goes, by one rename.

    cluster.json   which cluster, and who this host is in it
    endpoints      URLs of etcd's members, one a line: drivers read it, and each change of it
    hosts          addresses of all hosts, one a line: whom to ask when no member answers
    ca.crt         the CA's certificate
    host.crt, .key this host's own: for its driver and keeper
    members only:
    ca.key         the CA's key
    peer.crt, .key for etcd among members
    etcd.crt, .key for etcd towards drivers, and for the door
    root.crt, .key for etcd's root, with which members are managed
    etcd.env       settings of this host's etcd
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from driver.cluster.authority import Authority, Issued
from driver.errors import NotFound, SettingsError, StateError
from driver.state import durable
from driver.store.etcd.client import EtcdSettings

PRIVATE = 0o600
MEMBER_FILES = ("ca.key", "peer.crt", "peer.key", "etcd.crt", "etcd.key", "root.crt", "root.key",
                "etcd.env")


@dataclass(frozen=True)
class Identity:
    """Which cluster, and who this host is in it; `address`: see addresses."""

    cluster: str  # its id, 32 hex digits
    cluster_name: str
    generation: int
    host: str  # its id, that of the state folder
    name: str
    address: str
    complete: bool = False  # what began the cluster here, or joined it, came to its end
    plugin: bool = False  # dockerd runs this host's driver, as a managed plugin


class ClusterFolder:
    """The files.  Errors of all methods: StateError (cannot be read or written)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Tell whether this host is in a cluster, or half in it."""
        return (self.path / "cluster.json").exists()

    @property
    def is_member(self) -> bool:
        """Tell whether this host runs one of etcd's members."""
        return (self.path / "etcd.env").exists()

    def identity(self) -> Identity:
        """Return it.  Errors: NotFound (no cluster here), SettingsError (damaged)."""
        try:
            fields = json.loads((self.path / "cluster.json").read_text(encoding="utf-8"))
            return Identity(**fields)
        except FileNotFoundError:
            raise NotFound("this host is in no cluster: `slim cluster init` begins one, `slim "
                           "cluster join` enters one") from None
        except OSError as error:
            raise StateError(f"{self.path}/cluster.json: {error.strerror}: run it as root"
                             ) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise SettingsError(f"{self.path}/cluster.json is damaged ({error}): restore it, or "
                                f"remove {self.path} and join again") from error

    def put_identity(self, identity: Identity) -> None:
        """Write it."""
        self.write("cluster.json", json.dumps(asdict(identity), indent=1) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Write one of the files, durably; only root can read it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self.path / name, content, PRIVATE)
        except OSError as error:
            raise StateError(f"{self.path / name}: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        """Return one of the files."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise StateError(f"{self.path / name}: {error.strerror}") from error

    def put_issued(self, name: str, issued: Issued) -> None:
        """Write <name>.key, if it is another one, and <name>.crt.

        Whoever is killed between the two leaves a pair that does not fit: what has to work all the
        time keeps its key, and gets a new certificate only.
        """
        if self.key(name) != issued.key:
            self.write(f"{name}.key", issued.key)
        self.write(f"{name}.crt", issued.certificate)

    def key(self, name: str) -> bytes:
        """Return <name>.key; b"": there is none."""
        path = self.path / f"{name}.key"
        return self.read(path.name) if path.exists() else b""

    def authority(self) -> Authority:
        """Return the CA, on a member.  Error: NotFound."""
        if not (self.path / "ca.key").exists():
            raise NotFound("the CA's key is on etcd's members only (`slim cluster status` lists "
                           "them): type this on one of them")
        return Authority(self.read("ca.crt"), self.read("ca.key"))

    def endpoints(self) -> tuple[str, ...]:
        """Return the URLs of etcd's members."""
        return tuple(self.read("endpoints").decode().split())

    def put_lines(self, name: str, lines: tuple[str, ...]) -> bool:
        """Write `endpoints` or `hosts` if it says something else; tell whether it did."""
        text = "".join(f"{line}\n" for line in lines)
        if (self.path / name).exists() and self.read(name).decode() == text:
            return False
        self.write(name, text)
        return True

    def etcd_settings(self, who: str = "host") -> EtcdSettings:
        """Return how to reach etcd: as this host, or as etcd's root ("root"; members only)."""
        return EtcdSettings(
            self.endpoints(), ca=str(self.path / "ca.crt"), cert=str(self.path / f"{who}.crt"),
            key=str(self.path / f"{who}.key"), endpoints_file=str(self.path / "endpoints"))

    def drop_member_files(self) -> None:
        """Remove what only members have; etcd.env first, which makes this host one."""
        for name in reversed(MEMBER_FILES):
            (self.path / name).unlink(missing_ok=True)
            durable.remove_half(self.path / name)
        durable.sync_folder(self.path)

    @property
    def prepared(self) -> ClusterFolder:
        """The folder of a cluster that this host is about to join."""
        return ClusterFolder(self.path.with_name(self.path.name + ".new"))

    def drop_prepared(self) -> None:
        """Remove what a join that was killed had prepared: it has this host's key."""
        shutil.rmtree(self.prepared.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder at once: by a rename, so that no half of it is left."""
        self.finish_removal()
        try:
            self.path.rename(self._gone)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from error
        durable.sync_folder(self.path.parent)
        self.finish_removal()

    def finish_removal(self) -> None:
        """Do the rest of a `remove` that was killed: what it leaves has keys in it."""
        shutil.rmtree(self._gone, ignore_errors=True)

    @property
    def _gone(self) -> Path:
        return self.path.with_name(self.path.name + ".old")
