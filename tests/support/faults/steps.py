"""Counts the calls that a use case makes on its ports, and spoils the chosen one.

It knows no port: what is watched answers as before, each of its methods being one step more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, cast

T = TypeVar("T")


class How(Enum):
    """What becomes of the step."""

    FAILS = "fails"  # before its effect
    DONE = "fails, though it was done"  # as after a time-out
    KILLED = "killed before it"  # the process ends: nothing more is called
    DONE_KILLED = "killed after it"


STEPS_MAX = 60  # of one call; more: it never ends


def each_step(live: Callable[[int], str], counted: Callable[[], int], stride: int) -> None:
    """Spoil the first step, each `stride`-th after it, and the last.

    live: everything once, with step k spoilt; returns the step's name, "" if there are fewer.
    counted: how many steps there were in the life in which none was spoilt.
    Error: AssertionError if there is no step, or no end of them.
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
    """The driver's process has ended.  No `except Exception` may take it for a failure."""


@dataclass(frozen=True)
class Spoil:
    """Which step, from 1, and how."""

    at: int
    how: How


class Steps:
    """Shared by everything that one use case calls."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.spoil = Spoil(0, How.FAILS)
        self.dead = False
        # What lasts, as something comparable, if anybody wants to know.
        self.look: Callable[[], object] | None = None
        self.seen: list[tuple[object, object]] = []  # before and after each step

    def begin(self, spoil: Spoil) -> None:
        """Count from 1 again."""
        self.names, self.spoil, self.seen = [], spoil, []

    def worlds(self, how: How) -> list[int]:
        """Which of the steps made since `begin`, watched by `look`, are to be spoilt that way.

        The others would be the same again: what fails after a step that changed nothing fails as
        before it, and a process that is killed leaves what lasts, whatever it did since.
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
        """The spoilt step was made."""
        return len(self.names) >= self.spoil.at > 0

    def watch(self, port: T, name: str, error: Callable[[str], type[Exception]],
              *, free: tuple[str, ...] = ()) -> T:
        """Return `port` with every method a step; `free`: methods that cannot fail.

        error: method's name -> what it raises when it is spoilt.
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
