"""Finds those of a sandbox's connections that no longer have a socket (sock_diag).

Names are numbers as they lie in memory, like the maps' keys.  Messages are parsed by hand, because
a library that turns 20,000 of them into objects takes seconds.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import netns

# Peer's address and port, own port: as they lie in memory (network order).
Name = tuple[int, int, int]

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3  # NLMSG_...
_LISTEN = 10  # TCP_LISTEN
_STATES: Final = 0x1fff & ~(1 << 7 | 1 << _LISTEN)  # all except those that no segment finds
_HEAD: Final = struct.Struct("=IHHII")  # nlmsghdr
_ASK: Final = struct.Struct("=BBBBI HH 4s12x 4s12x I8s")  # inet_diag_req_v2
# From the start of a message, header included: family, state, ports, addresses.
_V4: Final = struct.Struct("=16x BB2x HH I12x I")
_V6: Final = struct.Struct("=16x BB2x HH 8x4sI 8x4sI")
_MAPPED: Final = b"\0\0\xff\xff"
_ANY_COOKIE: Final = b"\xff" * 8


def lost_sockets(path: str, cookie: int, local: bytes, names: Collection[Name]) -> set[Name]:
    """Return those of `names` that no TCP socket in the namespace at `path` has.

    local: the own address, four bytes.  Sockets in TIME_WAIT count, and so do SYNs that nobody has
    accepted yet.  If the namespace is not the one with `cookie`, none is known to be lost.
    Errors: NamespaceAbsent, LinkError.
    """
    return netns.run_in(path, lambda: _lost(local, names)
                        if netns.current_cookie() == cookie else set())


def _lost(local: bytes, names: Collection[Name]) -> set[Name]:
    own = int.from_bytes(local, sys.byteorder)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                           _NETLINK_SOCK_DIAG) as asking:
            left = set(names)
            for family in (socket.AF_INET, socket.AF_INET6):
                left.difference_update(_all(asking, family, own))
            # The list is read in pieces, and a socket that goes meanwhile may hide another: look
            # up each missing one by its name.
            return {name for name in left if not _exists(asking, local, name)}
    except OSError as error:
        raise LinkError(f"cannot list sockets: {error.strerror}") from error



def _ask(asking: socket.socket, family: int, flags: int, *, name: Name = (0, 0, 0),
         local: bytes = bytes(4)) -> None:
    peer_be, peer_port_be, local_port_be = name
    body = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, _STATES, local_port_be, peer_port_be,
                     local, struct.pack("=I", peer_be), 0, _ANY_COOKIE)
    asking.send(_HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST | flags, 1, 0) + body)


def _all(asking: socket.socket, family: int, own: int) -> Iterator[Name]:
    _ask(asking, family, _DUMP)
    while True:
        answer, at = asking.recv(1 << 16), 0
        while at < len(answer):
            length, kind, *_ = _HEAD.unpack_from(answer, at)
            if kind == _DONE:
                return
            _check(answer, at, kind)
            name = _name(answer, at)
            if name is not None and name[1] == own:
                yield name[2]
            at += (length + 3) & ~3


def _check(answer: bytes, at: int, kind: int) -> None:
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, at + _HEAD.size)[0]
        raise OSError(code, errno.errorcode.get(code, str(code)))


def _name(answer: bytes, at: int) -> tuple[int, int, Name] | None:
    """Return state, own address and name of an IPv4 (or IPv4-mapped) socket."""
    family, state, sport, dport, source, peer = _V4.unpack_from(answer, at)
    if family == socket.AF_INET6:
        *_, mapped, source, mapped_peer, peer = _V6.unpack_from(answer, at)
        if mapped != _MAPPED or mapped_peer != _MAPPED:
            return None
    return state, source, (peer, dport, sport)


def _exists(asking: socket.socket, local: bytes, name: Name) -> bool:
    """Look a socket up as a segment would find it; a listener does not count."""
    _ask(asking, socket.AF_INET, 0, name=name, local=local)
    answer = asking.recv(1 << 16)
    _, kind, *_ = _HEAD.unpack_from(answer)
    try:
        _check(answer, 0, kind)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    found = _name(answer, 0)
    return found is not None and found[0] != _LISTEN and found[2] == name
