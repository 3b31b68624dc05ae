"""Real etcd for tests: one member, or a cluster; each a process ended by its id."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

import pytest

from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.format import keys
from driver.store.kv.protocol import Entry
from tests.support.run.wait import wait_until
from tests.support.world.etcd_gateway import EtcdGateway
from tests.support.world.netns import Netns

ETCD = "/usr/bin/etcd"
ETCDCTL = "/usr/bin/etcdctl"


# Below what the kernel gives to clients: nobody takes one between the look and etcd's start.
_PORTS = range(15000, 30000)


def free_port() -> int:
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Etcd:
    """One member; context manager.  `stop`, `start`, `freeze`, `thaw` act on its process."""

    def __init__(self, folder: Path, *, tls: tuple[str, str, str] | None = None,
                 arguments: tuple[str, ...] = (), name: str = "default",
                 address: str = "127.0.0.1", netns: Netns | None = None) -> None:
        """`tls`: PEM files of CA, certificate and key; clients must show a certificate too.

        `address`: where clients are served, in `netns` if given.
        """
        if not shutil.which(ETCD):
            pytest.skip(f"{ETCD} is missing (Debian package etcd-server)")
        self._folder = folder
        self._tls = tls
        self.arguments = arguments
        self._netns = netns
        self.name = name
        self.address = address
        self.port = free_port()
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.cluster = f"{name}={self.peer}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def settings(self, **others: str) -> EtcdSettings:
        files = dict(zip(("ca", "cert", "key"), self._tls or (), strict=False))
        return EtcdSettings(endpoints=(self.url,), **{**files, **others})

    def __enter__(self) -> Etcd:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    def launch(self) -> None:
        """Start the process; it answers when a majority of its cluster runs."""
        tls = () if not self._tls else (
            "--trusted-ca-file", self._tls[0], "--cert-file", self._tls[1],
            "--key-file", self._tls[2], "--client-cert-auth")
        command = [
            ETCD, "--name", self.name, "--data-dir", str(self._folder / "data"),
            "--unsafe-no-fsync", "--listen-client-urls", self.url,
            "--advertise-client-urls", self.url, "--listen-peer-urls", self.peer,
            "--initial-advertise-peer-urls", self.peer, "--initial-cluster", self.cluster,
            "--log-level", "warn", *tls, *self.arguments]
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._netns.command(*command) if self._netns else command,
                stdout=log, stderr=log)

    def start(self) -> None:
        """Launch, and wait until it answers: for one that is alone."""
        self.launch()
        with EtcdKeyValue(self.settings()) as kv:
            wait_until(lambda: self._answers(kv), 20, "etcd answers")

    def _answers(self, kv: EtcdKeyValue) -> bool:
        self.assert_runs()
        try:
            kv.get("x")
        except StoreUnavailable as error:
            # With authentication on, an anonymous client is refused: that is an answer.
            return "user name" in str(error) or "permission denied" in str(error)
        return True

    def assert_runs(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "etcd.log").read_text()[-2000:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def metric(self, name: str) -> float:
        """Sum of all series of its /metrics that begin with `name` (without TLS only)."""
        with urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def restore(self, file: Path) -> None:
        """Replace the data of one that is stopped by a snapshot: it is another cluster then."""
        shutil.rmtree(self._folder / "data")
        subprocess.run(
            ["env", "ETCDCTL_API=3", ETCDCTL, "snapshot", "restore", str(file), "--name", self.name,
             "--data-dir", str(self._folder / "data"), "--initial-cluster", self.cluster,
             "--initial-advertise-peer-urls", self.peer],
            check=True, capture_output=True, timeout=60)

    def freeze(self) -> None:
        """Return when none of its threads runs any more: it might answer once more."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        wait_until(lambda: all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
            for task in tasks.iterdir()), 10, "etcd is frozen")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class EtcdCluster:
    """Members on one address; context manager.  They are killed one by one, or all."""

    def __init__(self, folder: Path, *, tls: tuple[str, str, str] | None = None,
                 arguments: tuple[str, ...] = (), address: str = "127.0.0.1",
                 netns: Netns | None = None, count: int = 3) -> None:
        """See Etcd; `count` of members."""
        if not shutil.which(ETCDCTL):
            pytest.skip(f"{ETCDCTL} is missing (Debian package etcd-client)")
        self._tls = tls
        self._netns = netns
        self._user = ""
        self.members: list[Etcd] = []
        for number in range(1, count + 1):
            (folder / f"m{number}").mkdir()
            self.members.append(Etcd(
                folder / f"m{number}", tls=tls, name=f"m{number}", address=address, netns=netns,
                # Elections in a tenth of the usual time; 3.4 allows pings each 5 s.
                arguments=("--heartbeat-interval", "50", "--election-timeout", "500",
                           *arguments)))
        for member in self.members:
            member.cluster = ",".join(f"{m.name}={m.peer}" for m in self.members)

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members)

    def settings(self, **others: str) -> EtcdSettings:
        files = dict(zip(("ca", "cert", "key"), self._tls or (), strict=False))
        return EtcdSettings(endpoints=self.urls, **{**files, **others})

    def __enter__(self) -> EtcdCluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start all members and wait until all of them serve."""
        for member in self.members:
            member.launch()
        self.wait_healthy()

    def stop(self) -> None:
        """Kill all members; what they wrote stays."""
        for member in self.members:
            member.stop()

    def restart(self, member: Etcd) -> None:
        """Start one that was killed, and wait until it serves."""
        member.launch()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        for member in self.members:
            wait_until(lambda m=member: self._serves(m), 30,  # type: ignore[misc]
                       f"{member.name} serves")

    def _serves(self, member: Etcd) -> bool:
        member.assert_runs()
        return self.gateway().serves(member.url)

    def gateway(self) -> EtcdGateway:
        return EtcdGateway(self.urls, self._netns.path if self._netns else "", self._tls,
                           self._user)

    def leader(self) -> Etcd:
        """The member that leads now."""
        def found() -> Etcd | None:
            for member in self.members:
                done = self.etcdctl("endpoint", "status", "--write-out=json",
                                    endpoints=(member.url,), check=False)
                if done.returncode == 0:
                    status = json.loads(done.stdout)[0]["Status"]
                    if status.get("leader") == status["header"]["member_id"]:
                        return member
            return None

        return wait_until(found, 20, "a leader")  # type: ignore[return-value]

    def etcdctl(self, *arguments: str, endpoints: Sequence[str] = (), check: bool = True,
                text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run etcdctl with the cluster's files, and as root where authentication is on."""
        files = () if not self._tls else (
            "--cacert", self._tls[0], "--cert", self._tls[1], "--key", self._tls[2])
        command = [
            "env", "ETCDCTL_API=3", ETCDCTL, "--endpoints", ",".join(endpoints or self.urls),
            "--dial-timeout=2s", f"--command-timeout={30 if check else 3}s", *files,
            *(("--user", self._user) if self._user else ()), *arguments]
        done = subprocess.run(self._netns.command(*command) if self._netns else command,
                              check=False, capture_output=True, text=True, timeout=60,
                              input=text, errors="surrogateescape")
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    def save(self, file: Path) -> None:
        """Make a snapshot, of a member."""
        self.etcdctl("snapshot", "save", str(file), endpoints=self.urls[:1])

    def restore(self, file: Path) -> None:
        """End all members, give each the snapshot as its data, and start them again."""
        self.stop()
        for member in self.members:
            member.restore(file)
        self.start()

    def entries(self, prefix: str) -> list[Entry]:
        """What there is under a prefix."""
        return [read.entry for read in self.gateway().range(prefix)]

    def guard(self, user: str, password: str, prefix: str) -> None:
        """Switch authentication on; `user` may read and write under `prefix`."""
        for name, word in (("root", "root"), (user, password)):
            self.etcdctl("user", "add", f"{name}:{word}")
        for role, name in (("root", "root"), ("slim", user)):
            self.etcdctl("role", "add", role)
            self.etcdctl("user", "grant-role", name, role)
        self.etcdctl("role", "grant-permission", "slim", "--prefix=true", "readwrite", prefix)
        self.etcdctl("auth", "enable")
        self._user = "root:root"


def live(entries: Iterable[Entry]) -> list[Entry]:
    """Without what goes by itself: tombstones after some minutes, a test's records at its end."""
    return [entry for entry in entries if not is_tombstone(entry.value)
            and not entry.key.startswith(keys.TESTS)]


def is_tombstone(value: bytes) -> bool:
    """Does this record say that what was there has gone?"""
    return b'"left":' in value


# What is kept about hosts and the cluster: it comes when it is needed, and stays.
ABOUT_HOSTS = (keys.HOSTS, keys.KNOWN, keys.ABSENT, keys.UNDERLAYS, keys.CLUSTER, keys.ANSWERS)


def live_keys(entries: Iterable[Entry]) -> list[str]:
    """Keys in order, without tombstones, and without what is about hosts and the cluster."""
    return sorted(entry.key for entry in live(entries)
                  if not entry.key.startswith(ABOUT_HOSTS)
                  and not entry.key.endswith(("/fence", "/question")))
