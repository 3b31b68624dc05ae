"""Provides an HTTP connection over a unix socket.

The caller says what is asked, and of which daemon.
"""

from __future__ import annotations

import http.client
import os
import socket

TIMEOUT_S = 10.0


class UnixConnection(http.client.HTTPConnection):
    """An HTTPConnection to the socket at `path`, which may be longer than sun_path (107 bytes)."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        """timeout_s: for connecting, and for each read and write."""
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host.  Error: OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        folder = os.open(os.path.dirname(self._path) or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(self._path)}")
        finally:
            os.close(folder)
