"""A real etcd of one member on the loopback device, for tests; ended by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

import pytest

from driver.errors import StoreUnavailable
from driver.store.client import EtcdKeyValue, EtcdSettings
from tests.support.wait import wait_until

ETCD = "/usr/bin/etcd"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Etcd:
    """Context manager.  `stop`, `start`, `freeze`, `thaw` act on the one process."""

    def __init__(self, folder: Path, *, tls: tuple[str, str, str] | None = None,
                 arguments: tuple[str, ...] = ()) -> None:
        """`tls`: PEM files of CA, certificate and key; clients must show a certificate too."""
        if not shutil.which(ETCD):
            pytest.skip(f"{ETCD} is missing (Debian package etcd-server)")
        self._folder = folder
        self._tls = tls
        self._arguments = arguments
        self.port = free_port()
        self._peer_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def settings(self, **others: str) -> EtcdSettings:
        files = dict(zip(("ca", "cert", "key"), self._tls or (), strict=False))
        return EtcdSettings(endpoints=(self.url,), **{**files, **others})

    def __enter__(self) -> Etcd:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        peer = f"http://127.0.0.1:{self._peer_port}"
        tls = () if not self._tls else (
            "--trusted-ca-file", self._tls[0], "--cert-file", self._tls[1],
            "--key-file", self._tls[2], "--client-cert-auth")
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [ETCD, "--data-dir", str(self._folder / "data"), "--unsafe-no-fsync",
                 "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                 "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"default={peer}", "--log-level", "warn",
                 *tls, *self._arguments],
                stdout=log, stderr=log)
        with EtcdKeyValue(self.settings()) as kv:
            wait_until(lambda: self._answers(kv), 20, "etcd answers")

    def _answers(self, kv: EtcdKeyValue) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "etcd.log").read_text()[-2000:]
        try:
            kv.get("x")
        except StoreUnavailable as error:
            # With authentication on, an anonymous client is refused: that is an answer.
            return "user name" in str(error) or "permission denied" in str(error)
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
