"""Tests that the socket exists before the driver loads its parts, which takes a second of CPU."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

HEAVY = ("grpc", "etcd3", "bcc", "pyroute2", "flask", "docker", "asyncio")
CODE = f"""
import os, sys
from driver import settings
from driver.compose.claims import claim
loaded = settings.load({{"socket": sys.argv[1], "state": sys.argv[2]}}, os.environ)
claims = claim(loaded)
print(claims.listener.path, [name for name in {HEAVY} if name in sys.modules], flush=True)
sys.stdin.read()
"""


def test_nothing_heavy_is_loaded_before_the_socket_is_there(tmp_path: Path) -> None:
    path = str(tmp_path / "slim.sock")
    with subprocess.Popen([sys.executable, "-c", CODE, path, str(tmp_path / "state")], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{path} []\n"
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(path)  # it waits, and is answered later
        process.communicate()
    assert process.returncode == 0
