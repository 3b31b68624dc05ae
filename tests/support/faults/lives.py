"""Lists lives of networks and containers, call by call, and lives them until something fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from driver.errors import SlimError
from tests.support.faults.calls import (
    Call,
    Net,
    ask,
    call_names,
    collect,
    end_of_namespace,
    neighbours,
    offer,
    restart,
    rules,
)
from tests.support.faults.steps import How, Killed, Spoil
from tests.support.world.whole import Whole

NOWHERE = Spoil(0, How.FAILS)
STEPS_MAX = 400

ONE, TWO = Net(1), Net(2)
DOCKERS = Net(4, space="LocalDefault", pool6="fd00:34::/64")
COME, CHANGE, GO = neighbours(ONE)
RESTART = restart().name
# The calls of a life, and which of them to spoil: another life may have spoilt the same call.
LIVES: dict[str, tuple[list[Call], Callable[[int, Call], bool]]] = {
    "one network": (
        [*ONE.makes(), offer(ONE, False), ask(ONE), offer(ONE, True), call_names(ONE, "web"),
         *ONE.removes(),
         end_of_namespace(ONE)],
        lambda index, call: True),
    "rules of the container's own": (
        [*ONE.makes(), rules(ONE, there=True), restart(), rules(ONE, there=False), restart(),
         *ONE.removes(), end_of_namespace(ONE)],
        lambda index, call: 6 < index < 11),
    "two networks in one sandbox": (
        [*ONE.makes(), *TWO.makes(), *ONE.removes(), *TWO.removes(), end_of_namespace(ONE)],
        lambda index, call: index > 10),
    "driver starts again at every point": (
        [each for call in [*ONE.makes(), *ONE.removes()] for each in (call, restart())]
        + [end_of_namespace(ONE)],
        lambda index, call: call.name == RESTART),
    "container dies with its host's dockerd": (
        [*ONE.makes(), end_of_namespace(ONE), restart(), *ONE.removes()],
        lambda index, call: index > 6),
    "a dead container's address is asked for again": (
        [*ONE.makes(), end_of_namespace(ONE), ONE.request_address(), *ONE.makes()[4:],
         *ONE.removes(), end_of_namespace(ONE)],
        lambda index, call: index == 8),
    "network is deleted with a container on it": (
        [*ONE.makes(), end_of_namespace(ONE), ONE.release_address(), *ONE.removes_network()],
        lambda index, call: index > 7),
    "neighbours": (
        [*ONE.makes()[:3], COME, CHANGE, restart(), GO, *ONE.removes_network()],
        lambda index, call: index > 2),
    "Docker's own IPAM, two families": (
        [DOCKERS.create_network(), *DOCKERS.makes()[4:], *DOCKERS.removes()[:2],
         end_of_namespace(DOCKERS), DOCKERS.delete_network()],
        lambda index, call: True),
    "Docker forgets everything": (
        [*ONE.makes(), *TWO.makes()[:5], end_of_namespace(ONE),
         collect(lambda w: w.docker.forget_all(), "all")],
        lambda index, call: index == 13),
    "Docker forgets an address": (
        [*ONE.makes()[:4], collect(lambda w: w.docker.addresses.clear(), "address"),
         *ONE.removes_network()],
        lambda index, call: index == 4),
}


@dataclass
class Outcome:
    succeeded: bool
    reached: bool
    step: str  # the spoilt one's name


def perform(whole: Whole, call: Call, spoil: Spoil = NOWHERE) -> Outcome:
    """Make one call, and let the driver's threads finish what follows."""
    whole.steps.begin(spoil)
    succeeded = False
    with suppress(Killed):
        with suppress(SlimError):
            call.act(whole)
            succeeded = True
        whole.settle()
    reached = whole.steps.reached
    step = whole.steps.names[spoil.at - 1] if reached else ""
    whole.steps.begin(NOWHERE)
    if whole.steps.dead:
        whole.reboot()
        whole.recover()
    whole.settle()
    if succeeded or call.undoes:
        call.believes(whole)
        call.follows(whole)
    return Outcome(succeeded, reached, step)


def until(calls: Sequence[Call]) -> Whole:
    whole = Whole()
    whole.recover()
    for call in calls:
        assert perform(whole, call).succeeded, call.name
    return whole


def spoilt(calls: Sequence[Call], index: int, how: How) -> Iterator[tuple[int, Whole, Outcome]]:
    """Yield, for each step of a call, a world in which the call was spoilt there."""
    for at in _worlds(tuple(calls), index)[how]:
        whole = until(calls[:index])
        outcome = perform(whole, calls[index], Spoil(at, how))
        assert outcome.reached
        yield at, whole, outcome


@cache
def _worlds(calls: tuple[Call, ...], index: int) -> dict[How, list[int]]:
    """For each way to spoil, return the call's steps to spoil; found in a life without faults."""
    whole = until(calls[:index])
    whole.steps.look = whole.lasting
    whole.steps.begin(NOWHERE)
    calls[index].act(whole)
    whole.settle()
    assert len(whole.steps.seen) < STEPS_MAX, "the call never ends"
    return {how: whole.steps.worlds(how) for how in How}
