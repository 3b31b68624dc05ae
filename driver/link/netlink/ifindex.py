"""Looks up an interface's index by its name, in the namespace of the calling thread.

This is one system call, where rtnetlink takes a millisecond.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from driver.errors import LinkError

_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16si20x")  # linux/if.h: struct ifreq, name and index


def find_ifindex(name: str) -> int | None:
    """Return the interface's index, None if there is none of that name.  Error: LinkError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise LinkError(f"look for {name}: {error}") from error
    return int(_IFREQ.unpack(answer)[1])
