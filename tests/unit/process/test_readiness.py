"""Tests what the driver tells systemd, and that it tells nobody else."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from driver.process.readiness import tell_ready


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_that_the_daemon_is_ready(tmp_path: Path, abstract: bool) -> None:
    path = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind("\0" + path if abstract else path)
        tell_ready({"NOTIFY_SOCKET": "@" + path if abstract else path})
        assert listener.recv(100) == b"READY=1\nSTATUS="
        tell_ready({"NOTIFY_SOCKET": "@" + path if abstract else path}, "no such device")
        assert listener.recv(100) == b"READY=1\nSTATUS=no such device"


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    tell_ready({})
    tell_ready({"NOTIFY_SOCKET": f"{tmp_path}/nobody-listens"})
