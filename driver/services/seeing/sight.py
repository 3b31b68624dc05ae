"""Tells of one socket of a container between whom its connection is, and by which path it goes.

Addresses are those that the program sees; names for people are the roster's.
"""

from __future__ import annotations

from dataclasses import dataclass

from driver.model import Vni
from driver.services.ports import Address, Lookups, Names, OpenSocket, Path, SocketNames
from driver.services.seeing.roster import Resident, Roster


@dataclass(frozen=True)
class Seen:
    """One connection, by addresses."""

    own: tuple[Address, int]
    peer: tuple[Address, int]  # as called
    vni: Vni | None  # None: in no network of slim's
    answering: Address  # in that network
    host: Address | None  # the peer's; None: not known
    path: Path
    age_s: float | None = None


class Sight:
    """Looks at sockets.  Thread-safe."""

    def __init__(self, names: SocketNames, lookups: Lookups) -> None:
        self._names = names
        self._lookups = lookups

    def see(self, roster: Roster, resident: Resident, socket: OpenSocket) -> Seen:
        """Return what a socket of that container, which is no listener, is.

        Error: DatapathError.
        """
        names = self._names.names(socket)
        if names is not None:
            return self._on_host_path(resident, names)
        own, peer = (socket.local, socket.local_port), (socket.peer, socket.peer_port)
        if roster.is_this_host(socket.local):
            # Its names are lost: a driver of another layout made it, or there was no memory.
            age_s = self._lookups.age_s(
                (socket.peer, socket.peer_port, socket.local_port))
            if age_s is not None:
                return Seen(own, peer, None, socket.peer, socket.peer, Path.HOST, age_s)
        vni = resident.vni_of(socket.local)
        if vni is None or not resident.is_inside(vni, socket.peer):
            return Seen(own, peer, None, socket.peer, None, Path.OUTSIDE)
        at = self._lookups.location(vni, socket.peer)
        is_here = (at is not None and roster.is_this_host(at.host)) or (
            self._lookups.is_here(vni, socket.peer))
        called = self._names.called(socket) or socket.peer
        return Seen(own, (called, socket.peer_port), vni, socket.peer,
                    at.host if at is not None else None,
                    Path.LOCAL if is_here else Path.OVERLAY)

    def _on_host_path(self, resident: Resident, names: Names) -> Seen:
        answering, (host, port, _) = names.peer, names.flow
        if not names.accepted and names.peer.version == 4:  # a service may have been called
            found = self._lookups.endpoint_of(host, port)
            answering = found[1] if found is not None else names.peer
        return Seen((names.local, names.local_port), (names.peer, names.peer_port),
                    resident.vni_of(names.local), answering, host, Path.HOST,
                    self._lookups.age_s(names.flow))
