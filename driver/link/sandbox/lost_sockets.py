"""Finds those of a sandbox's connections that no longer have a socket (sock_diag).

Names are as they lie in memory, like the maps' keys: bytes of addresses, numbers of ports.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import netns, sock_diag
from driver.link.netlink.sock_diag import LISTEN, Name

_STATES: Final = 0x1fff & ~(1 << 7 | 1 << LISTEN)  # all except those that no segment finds
# From the start of a message, header included: family, state, ports, addresses.
_ANSWER: Final = struct.Struct("=16x BB2x HH 16s 16s")
_MAPPED: Final = bytes(10) + b"\xff\xff"


def lost_sockets(path: str, cookie: int, local: bytes, names: Collection[Name]) -> set[Name]:
    """Return those of `names` that no TCP socket in the namespace at `path` has.

    local: the own address, four bytes or sixteen, like the names'.  Sockets in TIME_WAIT count, and
    so do SYNs that nobody has accepted yet.  If the namespace is not the one with `cookie`, none is
    known to be lost.
    Errors: NamespaceAbsent, LinkError.
    """
    return netns.run_in(path, lambda: _lost(local, names)
                        if netns.current_cookie() == cookie else set())


def _lost(local: bytes, names: Collection[Name]) -> set[Name]:
    # IPv6 sockets have connections of both: also IPv4-mapped ones.
    families = (socket.AF_INET, socket.AF_INET6) if len(local) == 4 else (socket.AF_INET6,)
    try:
        with sock_diag.opened() as asking:
            left = set(names)
            for family in families:
                left.difference_update(_all(asking, family, local))
            # The list is read in pieces, and a socket that goes meanwhile may hide another: look
            # up each missing one by its name.
            return {name for name in left if not _exists(asking, families[0], local, name)}
    except OSError as error:
        raise LinkError(f"cannot list sockets: {error.strerror}") from error


def _all(asking: socket.socket, family: int, own: bytes) -> Iterator[Name]:
    sock_diag.ask(asking, family, _STATES)
    for answer, at, _ in sock_diag.answers(asking):
        _, local, name = _read(answer, at)
        if local == own:
            yield name


def _read(answer: bytes, at: int) -> tuple[int, bytes, Name]:
    """Return state, own address and name of a socket; of an IPv4-mapped one those of IPv4."""
    family, state, sport, dport, source, peer = _ANSWER.unpack_from(answer, at)
    return state, _plain(family, source), (_plain(family, peer), dport, sport)


def _plain(family: int, address: bytes) -> bytes:
    if family == socket.AF_INET:
        return address[:4]
    return address[12:] if address.startswith(_MAPPED) else address


def _exists(asking: socket.socket, family: int, local: bytes, name: Name) -> bool:
    """Look a socket up as a segment would find it; a listener does not count."""
    sock_diag.ask(asking, family, _STATES, 0, name=name, local=local)
    try:
        state, _, found = _read(sock_diag.answer(asking), 0)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return state != LISTEN and found == name
