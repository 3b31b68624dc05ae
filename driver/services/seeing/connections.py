"""Lists the open TCP connections, or listeners, of this host's containers, as programs see them.

It is bounded in time and in size, and says what it has left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from driver.errors import InvalidArgument, LinkError
from driver.model import Vni
from driver.services.ports import (
    Address,
    Lookups,
    OpenSocket,
    Path,
    SocketFilter,
    SocketNames,
    Sockets,
)
from driver.services.seeing.roster import Resident, Roster, Sources
from driver.services.seeing.sight import Sight

BUDGET_S: Final = 3.0  # whoever asks waits for 5 s
ROWS: Final = 5000  # of all containers together
ROWS_LEAST: Final = 25  # of each container, also if others have taken all of those


@dataclass(frozen=True)
class Connection:
    """One row."""

    container: str
    local: Address
    local_port: int
    peer: Address
    peer_port: int
    peer_name: str  # "": not known
    peer_host: str  # "": not known
    network: str  # "": none of slim's
    path: Path  # NONE: a listener
    socket: OpenSocket
    age_s: float | None  # None: nobody knows

    def order(self) -> tuple[object, ...]:
        """Sort by container, then peer."""
        return (self.container, self.peer.version, self.peer, self.peer_port, self.local_port,
                self.local.version, self.local)


@dataclass
class Listing:
    """What was found, and what was left out."""

    connections: list[Connection] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)  # container -> how many are not shown
    unread: dict[str, str] = field(default_factory=dict)  # container -> why not all of it was read


class Connections:
    """The use case.  Thread-safe."""

    def __init__(self, sources: Sources, sockets: Sockets, names: SocketNames, lookups: Lookups,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._sources = sources
        self._sockets = sockets
        self._sight = Sight(names, lookups)
        self._clock = clock

    def list(self, wanted: SocketFilter) -> Listing:
        """Return what is wanted.  Errors: NotFound, Conflict, InvalidArgument, DatapathError."""
        if wanted.listening and wanted.path is not None:
            raise InvalidArgument("a listener has no path: leave --path or --listening out")
        end_s = self._clock() + BUDGET_S
        roster = Roster(self._sources)
        vni = roster.network(wanted.network).vni if wanted.network else None
        residents = [roster.resident(wanted.container)] if wanted.container else [
            each for each in roster.residents
            if vni is None or any(endpoint.vni == vni for endpoint in each.endpoints)]
        listing = Listing()
        for resident in residents:
            if self._clock() >= end_s:
                listing.unread[resident.name] = "there was no time left for it"
                continue
            self._read(_Reading(roster, resident, wanted, vni, end_s), listing)
        listing.connections.sort(key=Connection.order)
        return listing

    def _read(self, reading: _Reading, listing: Listing) -> None:
        resident = reading.resident
        found: list[Connection] = []
        left_out = 0

        def take(socket: OpenSocket) -> bool:
            nonlocal left_out
            if self._clock() >= reading.end_s:
                listing.unread[resident.name] = "it has more than could be read in time"
                return False
            row = (self._listener if reading.wanted.listening else self._connection)(
                reading, socket)
            if row is None:
                return True
            if len(found) < max(ROWS_LEAST, ROWS - len(listing.connections)):
                found.append(row)
            else:
                left_out += 1
            return True

        try:
            self._sockets.read(resident.sandbox_key, take, listening=reading.wanted.listening)
        except LinkError as error:
            listing.unread[resident.name] = str(error)
        listing.connections += found
        if left_out:
            listing.more[resident.name] = left_out

    def _connection(self, reading: _Reading, socket: OpenSocket) -> Connection | None:
        seen = self._sight.see(reading.roster, reading.resident, socket)
        if not reading.wants(seen.vni, seen.path):
            return None
        roster, vni = reading.roster, seen.vni
        return Connection(
            reading.resident.name, *seen.own, *seen.peer,
            roster.name_at(vni, seen.answering) if vni is not None else "",
            roster.host_name(seen.host) if seen.host is not None else "",
            roster.network_name(vni) if vni is not None else "", seen.path, socket, seen.age_s)

    @staticmethod
    def _listener(reading: _Reading, socket: OpenSocket) -> Connection | None:
        """Return its row; one that is bound to no address listens in all networks."""
        vni = reading.vni if socket.local.is_unspecified else reading.resident.vni_of(socket.local)
        path = Path.OUTSIDE if vni is None and not socket.local.is_unspecified else Path.NONE
        if not reading.wants(vni, path):
            return None
        return Connection(
            reading.resident.name, socket.local, socket.local_port, socket.peer, 0, "", "",
            reading.roster.network_name(vni) if vni is not None else "", path, socket, None)


@dataclass(frozen=True)
class _Reading:
    """One container, as it is read."""

    roster: Roster
    resident: Resident
    wanted: SocketFilter
    vni: Vni | None  # of the network that is wanted
    end_s: float

    def wants(self, vni: Vni | None, path: Path) -> bool:
        if self.vni is not None and vni != self.vni:
            return False
        if self.wanted.path is not None:
            return path is self.wanted.path
        return path is not Path.OUTSIDE or self.wanted.everything
