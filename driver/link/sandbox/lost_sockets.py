"""Finds those of a sandbox's connections that no longer have a socket (sock_diag).

Names are numbers as they lie in memory, like the maps' keys.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import netns, sock_diag
from driver.link.netlink.sock_diag import LISTEN, Name

_STATES: Final = 0x1fff & ~(1 << 7 | 1 << LISTEN)  # all except those that no segment finds
# From the start of a message, header included: family, state, ports, addresses.
_V4: Final = struct.Struct("=16x BB2x HH I12x I")
_V6: Final = struct.Struct("=16x BB2x HH 8x4sI 8x4sI")
_MAPPED: Final = b"\0\0\xff\xff"


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
        with sock_diag.opened() as asking:
            left = set(names)
            for family in (socket.AF_INET, socket.AF_INET6):
                left.difference_update(_all(asking, family, own))
            # The list is read in pieces, and a socket that goes meanwhile may hide another: look
            # up each missing one by its name.
            return {name for name in left if not _exists(asking, local, name)}
    except OSError as error:
        raise LinkError(f"cannot list sockets: {error.strerror}") from error


def _all(asking: socket.socket, family: int, own: int) -> Iterator[Name]:
    sock_diag.ask(asking, family, _STATES)
    for answer, at, _ in sock_diag.answers(asking):
        name = _name(answer, at)
        if name is not None and name[1] == own:
            yield name[2]


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
    sock_diag.ask(asking, socket.AF_INET, _STATES, 0, name=name, local=local)
    try:
        found = _name(sock_diag.answer(asking), 0)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return found is not None and found[0] != LISTEN and found[2] == name
