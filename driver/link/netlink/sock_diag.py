"""Asks the kernel for TCP sockets of the calling thread's namespace, and reads its answers.

Messages are parsed by hand, because a library that turns 20,000 of them into objects takes seconds.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

DUMP: Final = 0x300  # all that match, instead of one
LISTEN: Final = 10  # TCP_LISTEN
# Peer's address (4 or 16 bytes) and port, own port: as they lie in memory (network order).
Name = tuple[bytes, int, int]
HEAD: Final = struct.Struct("=IHHII")  # nlmsghdr

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST: Final = 0x1
_ERROR, _DONE = 2, 3  # NLMSG_...
_ASK: Final = struct.Struct("=BBBBI HH 16s 16s I8s")  # inet_diag_req_v2
_ANY_COOKIE: Final = b"\xff" * 8
_ANSWER_BYTES: Final = 1 << 16  # the kernel sends 32 kB at a time at most


def opened() -> socket.socket:
    """Open a socket to ask with.  Error: OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                         _NETLINK_SOCK_DIAG)


def ask(asking: socket.socket, family: int, states: int, flags: int = DUMP, *,
        name: Name = (b"", 0, 0), local: bytes = b"", extensions: int = 0,
        attributes: bytes = b"") -> None:
    """Ask for TCP sockets of a family in these states (a bit each).  Error: OSError.

    extensions: a bit for each INET_DIAG_... attribute wanted.  attributes: of the request.
    """
    peer, peer_port_be, local_port_be = name  # struct.pack fills addresses up with zeros
    body = _ASK.pack(family, socket.IPPROTO_TCP, extensions, 0, states, local_port_be,
                     peer_port_be, local, peer, 0, _ANY_COOKIE)
    asking.send(HEAD.pack(HEAD.size + len(body) + len(attributes), _BY_FAMILY, _REQUEST | flags,
                          1, 0) + body + attributes)


def answers(asking: socket.socket) -> Iterator[tuple[bytes, int, int]]:
    """Yield each message of a dump: a buffer, where in it the message begins, and its length.

    Error: OSError, of the request, too.
    """
    while True:
        buffer, at = asking.recv(_ANSWER_BYTES), 0
        while at < len(buffer):
            length, kind, *_ = HEAD.unpack_from(buffer, at)
            if kind == _DONE:
                return
            check(buffer, at, kind)
            yield buffer, at, length
            at += (length + 3) & ~3


def answer(asking: socket.socket) -> bytes:
    """Return the message about one socket.  Error: OSError (ENOENT: there is none)."""
    buffer = asking.recv(_ANSWER_BYTES)
    _, kind, *_ = HEAD.unpack_from(buffer)
    check(buffer, 0, kind)
    return buffer


def check(buffer: bytes, at: int, kind: int) -> None:
    """Raise OSError if the message says that the request was refused."""
    if kind == _ERROR:
        code = -struct.unpack_from("=i", buffer, at + HEAD.size)[0]
        raise OSError(code, errno.errorcode.get(code, str(code)))
