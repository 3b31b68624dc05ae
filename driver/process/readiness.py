"""Tells systemd that the daemon answers (sd_notify(3)), so that dockerd starts after that.

If nobody asked for it, it does nothing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping


def tell_ready(environment: Mapping[str, str], status: str = "") -> None:
    """Send READY=1 to the datagram socket of NOTIFY_SOCKET; a leading @ means an abstract one.

    status: what `systemctl status` shows, without line breaks.
    """
    path = environment.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    # A missing supervisor is no reason to exit: systemd's own timeout covers that.
    with contextlib.suppress(OSError), \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(f"READY=1\nSTATUS={status}".encode(), address)
