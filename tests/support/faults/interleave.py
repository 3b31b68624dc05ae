"""Runs calls at once, with the order of their steps drawn from a seed: races become repeatable.

Each call has a thread, and one thread at a time may run.  A step is any call of a wrapped object.
A thread hands on before and after each step, and where it waits for a lock made here.  Modules
under test get these locks in place of `threading`'s; the rest of Python keeps its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

HUNG_S = 30.0  # real time, of which no step of a fake takes any


class Deadlock(AssertionError):
    """Each call that has not ended waits for a lock that another call holds."""


class Interleaving:
    """One run, its order given by `seed`."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._me = threading.local()  # `call`: the number of this thread's call
        self._turns: dict[int, threading.Event] = {}  # of calls that have not ended
        self._waiting: dict[int, Lock] = {}
        self._failures: list[BaseException] = []

    def run(self, *calls: Callable[[], object]) -> None:
        """Run the calls to their ends; raise what one of them raised."""
        self._turns = {number: threading.Event() for number in range(len(calls))}
        threads = [threading.Thread(target=self._call, args=(number, act), daemon=True)
                   for number, act in enumerate(calls)]
        for thread in threads:
            thread.start()
        self._hand_on()
        for thread in threads:
            thread.join(HUNG_S)
            assert not thread.is_alive(), "a call hangs: it waits for what is not wrapped"
        if self._failures:
            raise self._failures[0]

    def me(self) -> int:
        """Return the number of the call that runs; -1 if it is none of `run`'s."""
        return getattr(self._me, "call", -1)

    def point(self) -> None:
        """Perhaps hand on to another call.  Outside of `run`, do nothing."""
        turn = self._turns.get(self.me())
        if turn is not None and not self._failures:
            turn.clear()
            self._hand_on()
            assert turn.wait(HUNG_S)

    def wrap(self, thing: Any) -> Any:
        """Return a stand-in for `thing`; each call of its methods is a step."""
        return _Wrapped(thing, self.point)

    def lock(self) -> Lock:
        """Make a lock, in place of threading.Lock and RLock."""
        return Lock(self)

    def replace_locks(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        """From now on, have these modules make their locks here."""
        stand_in = SimpleNamespace(**{**vars(threading), "Lock": self.lock, "RLock": self.lock})
        for module in modules:
            monkeypatch.setattr(module, "threading", stand_in)

    def wait_for(self, lock: Lock) -> None:
        """Let other calls go on while another one holds the lock."""
        if self._failures:
            raise Deadlock("another call has failed, or waits for this one")
        self._waiting[self.me()] = lock
        self.point()

    def _call(self, number: int, act: Callable[[], object]) -> None:
        self._me.call = number
        self._turns[number].wait(HUNG_S)
        try:
            act()
        except BaseException as failure:
            self._failures.append(failure)
        finally:
            del self._turns[number]
            self._hand_on()

    def _hand_on(self) -> None:
        able = [each for each in sorted(self._turns) if each not in self._waiting
                or not self._waiting[each].held_by_other(each)]
        if self._turns and not able:
            self._failures.append(Deadlock(f"{len(self._turns)} calls wait for each other"))
        if self._failures:  # let all run to their ends, in any order
            for turn in list(self._turns.values()):
                turn.set()
        elif able:
            chosen = self._random.choice(able)
            self._waiting.pop(chosen, None)
            self._turns[chosen].set()


class Lock:
    """Reentrant even where the real lock is not: no code relies on a deadlock."""

    def __init__(self, interleaving: Interleaving) -> None:
        self._interleaving = interleaving
        self._owner: int | None = None
        self._depth = 0

    def held_by_other(self, call: int) -> bool:
        return self._owner not in (None, call)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._interleaving.me()
        while self.held_by_other(me):
            if not blocking:
                return False
            self._interleaving.wait_for(self)
        self._owner, self._depth = me, self._depth + 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._interleaving.point()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Wrapped:
    def __init__(self, thing: Any, point: Callable[[], None]) -> None:
        self.__dict__.update(_thing=thing, _point=point)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return found

        def step(*arguments: Any, **named: Any) -> Any:
            self._point()
            try:
                return found(*arguments, **named)
            finally:
                self._point()

        return step

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._thing, name, value)


