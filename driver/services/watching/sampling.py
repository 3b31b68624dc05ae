"""Turns two looks at this host's sockets into rates by pair of addresses and by path.

A connection that opens and closes between two looks is not seen; bytes are seen up to the last look
at a socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from driver.errors import LinkError
from driver.services.ports import Address, End, OpenSocket, PairRate, Path, PathRate, Sockets
from driver.services.seeing.roster import Resident, Roster
from driver.services.seeing.sight import Sight

BUDGET_S: Final = 3.0  # for one sample; containers that are not reached are first in the next one
PAIRS_MAX: Final = 5000  # that are told apart; the rest counts for its path only

Key = tuple[End, End, Path]


@dataclass(frozen=True)
class Sample:
    """What was found."""

    pairs: tuple[PairRate, ...] = ()  # the most important ones first
    paths: tuple[PathRate, ...] = ()
    more_pairs: int = 0
    unread: dict[str, str] = field(default_factory=dict)  # container -> why not all of it was read


@dataclass(slots=True)
class _Sums:
    connections: int = 0
    opened_per_s: float = 0.0
    in_per_s: float = 0.0
    out_per_s: float = 0.0

    def numbers(self) -> tuple[int, float, float, float]:
        return self.connections, self.opened_per_s, self.in_per_s, self.out_per_s


@dataclass(frozen=True)
class _Before:
    """A container's sockets at the last look, by cookie: whose they are, and their bytes."""

    at_s: float  # monotonic
    sockets: dict[int, tuple[Key | None, int, int]]


class Sampler:
    """Remembers the last sample.  For one thread."""

    def __init__(self, sockets: Sockets, sight: Sight,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._sockets = sockets
        self._sight = sight
        self._clock = clock
        self._before: dict[str, _Before] = {}  # by sandbox key
        self._looked_s: dict[str, float] = {}  # when at which, also if in vain

    def begin_anew(self) -> None:
        """Have the next sample be the first one, without rates."""
        self._before, self._looked_s = {}, {}

    def sample(self, roster: Roster) -> Sample:
        """Look at the sockets of all containers.  Error: DatapathError."""
        end_s = self._clock() + BUDGET_S
        pairs: dict[Key, _Sums] = {}
        paths: dict[Path, _Sums] = {}
        left_out: set[Key] = set()
        unread: dict[str, str] = {}
        here = {each.sandbox_key for each in roster.residents}
        for known in (self._before, self._looked_s):
            for gone in known.keys() - here:
                del known[gone]
        for resident in sorted(roster.residents, key=self._last_looked_s):
            if self._clock() >= end_s:
                unread[resident.name] = "there was no time left for it"
                continue
            self._looked_s[resident.sandbox_key] = self._clock()
            before = self._before.pop(resident.sandbox_key, None)
            try:
                looked, whole = self._look(roster, resident, before, end_s)
            except LinkError as error:
                unread[resident.name] = str(error)
                continue
            if not whole:
                unread[resident.name] = "it has more than could be read in time"
            else:
                self._before[resident.sandbox_key] = looked
            for key, sums in _by_pair(before, looked).items():
                if key not in pairs and len(pairs) >= PAIRS_MAX:
                    left_out.add(key)
                else:
                    _add(pairs.setdefault(key, _Sums()), sums)
                _add(paths.setdefault(key[2], _Sums()), sums)
        return Sample(
            tuple(_most_important([PairRate(here, there, path, *sums.numbers())
                                   for (here, there, path), sums in pairs.items()])),
            tuple(PathRate(path, *sums.numbers()) for path, sums in sorted(paths.items())),
            len(left_out), unread)

    def _last_looked_s(self, resident: Resident) -> float:
        return self._looked_s.get(resident.sandbox_key, float("-inf"))

    def _look(self, roster: Roster, resident: Resident, before: _Before | None, end_s: float
              ) -> tuple[_Before, bool]:
        """Return a container's sockets, and whether these are all.  Error: LinkError."""
        at_s = self._clock()
        known = before.sockets if before is not None else {}
        sockets: dict[int, tuple[Key | None, int, int]] = {}
        whole = True

        def take(socket: OpenSocket) -> bool:
            nonlocal whole
            if self._clock() >= end_s:
                whole = False
                return False
            was = known.get(socket.cookie)
            # Who talks to whom stays so, but for a socket whose names were not there yet.
            if was is not None and (was[0] is None or was[0][2] is not Path.OUTSIDE):
                key = was[0]
            else:
                key = self._key(roster, resident, socket)
            sockets[socket.cookie] = key, socket.received_bytes, socket.sent_bytes
            return True

        self._sockets.read(resident.sandbox_key, take, listening=False)
        return _Before(at_s, sockets), whole

    def _key(self, roster: Roster, resident: Resident, socket: OpenSocket) -> Key | None:
        """Return between whom it is; None: it does not leave the container."""
        seen = self._sight.see(roster, resident, socket)
        if seen.own[0].is_loopback or seen.answering.is_loopback:
            return None
        if seen.vni is not None:
            return End(seen.vni, seen.own[0]), End(seen.vni, seen.answering), seen.path
        return _first(resident) or End(0, seen.own[0]), End(0, seen.answering), seen.path


def _first(resident: Resident) -> End | None:
    """Return the address that stands for a container outside slim's networks."""
    for endpoint in resident.endpoints:
        at: Sequence[Address] = [each.ip for each in (endpoint.address, endpoint.address6)
                                 if each is not None]
        if at:
            return End(endpoint.vni, at[0])
    return None


def _by_pair(before: _Before | None, now: _Before) -> dict[Key, _Sums]:
    """Return what changed in one container; without a look before, there are no rates."""
    found: dict[Key, _Sums] = {}
    lasted_s = max(now.at_s - before.at_s, 1e-3) if before is not None else 0.0
    for cookie, (key, received, sent) in now.sockets.items():
        if key is None:
            continue
        sums = found.setdefault(key, _Sums())
        sums.connections += 1
        if before is None:
            continue
        was = before.sockets.get(cookie)
        if was is None:
            sums.opened_per_s += 1 / lasted_s
        _, was_received, was_sent = was or (None, 0, 0)
        sums.in_per_s += max(0, received - was_received) / lasted_s
        sums.out_per_s += max(0, sent - was_sent) / lasted_s
    return found


def _add(to: _Sums, more: _Sums) -> None:
    to.connections += more.connections
    to.opened_per_s += more.opened_per_s
    to.in_per_s += more.in_per_s
    to.out_per_s += more.out_per_s


def _most_important(pairs: Sequence[PairRate]) -> list[PairRate]:
    """Order them: by turns the next one by bytes, and by connections."""
    by_bytes = sorted(pairs, key=lambda each: -(each.in_per_s + each.out_per_s))
    by_connections = sorted(pairs, key=lambda each: (-each.opened_per_s, -each.connections))
    ordered: dict[Key, PairRate] = {}
    for two in zip(by_bytes, by_connections, strict=True):
        for each in two:
            ordered.setdefault((each.here, each.there, each.path), each)
    return list(ordered.values())
