"""Asks for one round: waits for the hosts, gives the word, and collects their rows.

It judges nothing, and works where no driver runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from driver.errors import Conflict
from driver.model import Host, HostId, KnownHost
from driver.services.ports import Participant, Round, Rounds, Row

LOOK_S: Final = 0.1  # between looks at what has come
READY_S: Final = 3.0  # for hosts to get ready
ROWS_S: Final = 4.0  # for their rows, from the word on
ROWS_MORE_S: Final = 0.05  # more for each host
QUEUE_S: Final = 30.0  # for another round to end


@dataclass(frozen=True)
class Clock:
    """By how much a host's clock is ahead of the asker's: between these bounds, in seconds."""

    least_s: float
    most_s: float


@dataclass(frozen=True)
class Collected:
    """Everything that a round has brought."""

    asked: Round
    known: Mapping[HostId, KnownHost]
    live: Mapping[HostId, Host]
    participants: Mapping[HostId, Participant]
    rows: Mapping[HostId, Row]
    clocks: Mapping[HostId, Clock]


class Asking:
    """Asks for rounds; one at a time."""

    def __init__(self, rounds: Rounds, *, clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        """clock: seconds, monotonic.  wall: seconds since the Unix epoch."""
        self._rounds = rounds
        self._clock = clock
        self._wall = wall
        self._sleep = sleep

    def ask(self, wanted: Round, *, wait: bool = True) -> Collected:
        """Have one round, and return what it has brought.

        wait: for another round to end.
        Errors: Conflict (another one is under way), StoreUnavailable.
        """
        asked, began_s = self._begin(wanted, self._clock() + (QUEUE_S if wait else 0.0))
        try:
            live = self._rounds.live()
            participants, clocks = self._gather(asked, live.keys(), began_s)
            if not self._rounds.go(asked):
                raise Conflict("somebody has ended the test: try again")
            rows = self._collect(asked, participants.keys())
            return Collected(asked, self._rounds.known(), live, participants, rows, clocks)
        finally:
            self._rounds.end(asked)

    def _begin(self, wanted: Round, end_s: float) -> tuple[Round, float]:
        """Return the round, and the wall's time before it was begun."""
        while True:
            began_s = self._wall()
            begun = self._rounds.begin(wanted)
            if begun is not None:
                return begun, began_s
            if self._clock() >= end_s:
                other = self._rounds.current()
                by = f", asked for on {other.asker!r}," if other is not None else ""
                raise Conflict(f"another test{by} is under way: try again when it is over")
            self._sleep(LOOK_S)

    def _gather(self, asked: Round, expected: Collection[HostId], began_s: float
                ) -> tuple[Mapping[HostId, Participant], dict[HostId, Clock]]:
        """Wait for the hosts that are alive; some may know no tests."""
        clocks: dict[HostId, Clock] = {}
        end_s = self._clock() + READY_S
        while True:
            participants = self._rounds.participants(asked)
            seen_s = self._wall()
            for host_id, each in participants.items():
                at_s = each.clock_us / 1e6
                # It was read after the round was begun here, and before it was seen here.
                clocks.setdefault(host_id, Clock(at_s - seen_s, at_s - began_s))
            if set(expected) <= participants.keys() or self._clock() >= end_s:
                return participants, clocks
            self._sleep(LOOK_S)

    def _collect(self, asked: Round, expected: Collection[HostId]) -> Mapping[HostId, Row]:
        end_s = self._clock() + ROWS_S + ROWS_MORE_S * len(expected)
        while True:
            rows = self._rounds.rows(asked)
            if set(expected) <= rows.keys() or self._clock() >= end_s:
                return rows
            self._sleep(LOOK_S)
