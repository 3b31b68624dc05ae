"""Counts the calls that a use case makes on its ports, and spoils a chosen one.

A watched port answers as before; each call of its methods is a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, cast

T = TypeVar("T")


class How(Enum):
    """How a step is spoilt."""

    FAILS = "fails"  # before its effect
    DONE = "fails, though it was done"  # as after a time-out
    KILLED = "killed before it"  # the process ends: nothing more is called
    DONE_KILLED = "killed after it"


STEPS_MAX = 60  # a call with more steps never ends


def each_step(live: Callable[[int], str], counted: Callable[[], int], stride: int) -> None:
    """Spoil the first step, each `stride`-th after it, and the last.

    live: lives everything once, with step k spoilt; returns the step's name, "" if there are
    fewer steps.
    counted: returns how many steps there were in the life without faults.
    Error: AssertionError if there is no step, or no last one.
    """
    at = 1
    while live(at):
        at += stride
        assert at < STEPS_MAX, "the call never ends"
    assert at > 1, "no step was made"
    last = counted()
    if last > at - stride:
        live(last)


class Killed(BaseException):
    """The driver's process has ended.  `except Exception` must not catch it."""


@dataclass(frozen=True)
class Spoil:
    """Which step to spoil, from 1, and how."""

    at: int
    how: How


class Steps:
    """The count of steps, shared by all ports of a use case."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.spoil = Spoil(0, How.FAILS)
        self.dead = False
        # Returns the lasting state, for comparison; set by a test that needs it.
        self.look: Callable[[], object] | None = None
        self.seen: list[tuple[object, object]] = []  # before and after each step

    def begin(self, spoil: Spoil) -> None:
        """Count from 1 again."""
        self.names, self.spoil, self.seen = [], spoil, []

    def worlds(self, how: How) -> list[int]:
        """Return which of the steps since `begin`, watched by `look`, to spoil that way.

        Spoiling the others would repeat a case: failing after a step that changed nothing is
        failing before it, and a process killed at either leaves the same lasting state.
        """
        at = range(1, len(self.seen) + 1)
        if how is How.FAILS:
            return list(at)
        changing = [number for number, (before, after) in zip(at, self.seen, strict=True)
                    if before != after]
        if how is How.DONE:
            return changing
        if how is How.DONE_KILLED:
            return [number for number in changing if number == len(self.seen)]
        left = [before for before, _ in self.seen]
        return [number for number in at if number == 1 or left[number - 1] != left[number - 2]]

    @property
    def reached(self) -> bool:
        """Whether the step to spoil was reached."""
        return len(self.names) >= self.spoil.at > 0

    def watch(self, port: T, name: str, error: Callable[[str], type[Exception]],
              *, free: tuple[str, ...] = ()) -> T:
        """Return `port` with each method made a step; `free`: methods that cannot fail.

        error: returns, for a method's name, what a spoilt call raises.
        """
        return cast(T, _Watched(port, name, self, error, free))

    def step(self, name: str, error: type[Exception], act: Callable[[], T]) -> T:
        """Do one step."""
        if self.dead:
            raise Killed
        self.names.append(name)
        hit = len(self.names) == self.spoil.at
        how = self.spoil.how
        if hit and how is How.KILLED:
            self._die()
        if hit and how is How.FAILS:
            raise error(f"injected at step {self.spoil.at}: {name}")
        before = self.look() if self.look else None
        result = act()
        if self.look:
            self.seen.append((before, self.look()))
        if hit and how is How.DONE_KILLED:
            self._die()
        if hit and how is How.DONE:
            raise error(f"injected after step {self.spoil.at}: {name}")
        return result

    def _die(self) -> None:
        self.dead = True
        raise Killed


class _Watched:
    def __init__(self, port: object, name: str, steps: Steps,
                 error: Callable[[str], type[Exception]], free: tuple[str, ...]) -> None:
        self._port, self._name, self._steps = port, name, steps
        self._error, self._free = error, free

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._port, method)
        if not callable(found) or method in self._free:
            return found

        def step(*arguments: Any, **options: Any) -> Any:
            return self._steps.step(f"{self._name}.{method}", self._error(method),
                                    lambda: found(*arguments, **options))

        return step
