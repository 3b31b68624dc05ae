"""Answers `slim flows`: which connections have opened and closed, and what was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from driver.errors import NotFound
from driver.services.ports import Event
from driver.services.seeing.following import NOBODY, Following
from driver.services.seeing.refusals import Refusal, Refusals
from driver.services.seeing.telling import FlowFilter, Telling, Told, check_reason, selection


@dataclass(frozen=True)
class FlowsAnswer:
    """Events in their order, where the next question goes on, what is missing."""

    told: Sequence[Told]
    next: str
    lost: int
    paused: bool


def _nothing(_event: Event) -> bool:
    return False


class Flows:
    """The two questions.  Thread-safe."""

    def __init__(self, following: Following, refused: Refusals, telling: Telling,
                 reasons: Mapping[str, str], cookie: Callable[[str], int | None]) -> None:
        """reasons: the counters' meanings, by name.  cookie: of a sandbox key's namespace."""
        self._following = following
        self._refused = refused
        self._telling = telling
        self._reasons = reasons
        self._cookie = cookie

    def follow(self, wanted: FlowFilter, after: str) -> FlowsAnswer:
        """Return what has happened since the answer whose `next` is `after`; "": begin.

        Waits up to a second for something, also for a container that has gone since: it may be
        started again.
        Errors: NotFound, Conflict, InvalidArgument, DatapathError; SlimError, if too many follow.
        """
        check_reason(wanted.reason, self._reasons)
        try:
            wants, cookie = self._selection(wanted)
        except NotFound:
            if not after:
                raise
            wants, cookie = _nothing, NOBODY
        batch = self._following.follow(wants, after, cookie)
        return FlowsAnswer([self._telling.tell(event) for event in batch.events], batch.next,
                           batch.lost, batch.paused)

    def _selection(self, wanted: FlowFilter) -> tuple[Callable[[Event], bool], int]:
        """Return a test of events, and the cookie of the only sandbox that has them; 0: any."""
        roster = self._telling.roster()
        wants = selection(wanted, roster)
        if not wanted.container:
            return wants, 0
        return wants, self._cookie(roster.resident(wanted.container).sandbox_key) or NOBODY

    def refusals(self, wanted: FlowFilter) -> list[Refusal]:
        """Return what was refused, the last first.  Errors: NotFound, Conflict, InvalidArgument."""
        check_reason(wanted.reason, self._reasons)
        roster = self._telling.roster()
        container = roster.resident(wanted.container).name if wanted.container else ""
        network = roster.called(roster.network(wanted.network)) if wanted.network else ""
        return [each for each in self._refused.last()
                if (not container or each.container == container)
                and (not network or each.network == network)
                and (not wanted.reason or each.reason == wanted.reason)]
