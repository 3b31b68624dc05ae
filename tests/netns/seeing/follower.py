"""Follows the connections of a machine of the datapath tests, as `slim flows --follow` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from driver.datapath.code.reasons import read_reasons
from driver.datapath.tables.events import KernelEvents
from driver.services.ports import EventKind
from driver.services.seeing.flows import Flows
from driver.services.seeing.following import Following
from driver.services.seeing.refusals import Refusal, Refusals
from driver.services.seeing.telling import FlowFilter, Telling, Told
from tests.netns.seeing.eyes import Eyes
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine


class Follower:
    """What one follower has seen so far."""

    def __init__(self, flows: Flows, wanted: FlowFilter) -> None:
        self._flows = flows
        self._wanted = wanted
        self._next = flows.follow(wanted, "").next
        self.seen: list[Told] = []
        self.lost = 0
        self.paused = False

    def ask(self) -> list[Told]:
        """Ask once; return all that was seen."""
        answer = self._flows.follow(self._wanted, self._next)
        self._next = answer.next
        self.seen += answer.told
        self.lost += answer.lost
        self.paused |= answer.paused
        return self.seen

    def until(self, count: int) -> list[Told]:
        """Ask until so many events have come, or were lost.  An answer takes a second at most."""
        for _ in range(20 * count):
            if len(self.ask()) + self.lost >= count:
                return self.seen
        raise AssertionError(f"no {count} events, but {self.seen}")

    def kinds(self) -> list[EventKind]:
        return [each.event.kind for each in self.seen]


class Watch:
    """A driver's reader of a machine's events."""

    def __init__(self, machine: Machine) -> None:
        meanings = {each.name: each.meaning for each in read_reasons()}
        telling = Telling(Eyes(machine).sources)
        self.events = KernelEvents(machine.loaded, list(meanings))
        self.refusals = Refusals(telling, meanings)
        self.following = Following(self.events, self.refusals.note)
        self.flows = Flows(self.following, self.refusals, telling, meanings,
                           machine.sandboxes.cookie)

    def follow(self, container: Container | None = None, **wanted: object) -> Follower:
        return Follower(self.flows, FlowFilter(
            container.endpoints[0][0].id if container else "",
            **wanted))  # type: ignore[arg-type]

    def refused(self, reason: str, true: Callable[[Refusal], bool] = lambda _: True) -> Refusal:
        """Wait for a refusal."""
        return wait_until(lambda: [each for each in self.refusals.last()
                                   if each.reason == reason and true(each)],
                          20, f"a refusal: {reason}, not {self.refusals.last()}")[0]


@contextmanager
def watching(machine: Machine) -> Iterator[Watch]:
    """Read a machine's events during the block."""
    watch = Watch(machine)
    watch.events.take(1 << 20)  # what earlier tests have left
    watch.following.start()
    try:
        yield watch
    finally:
        watch.following.stop()
        watch.events.close()
