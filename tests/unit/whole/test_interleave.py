"""The scheduler of races: the same seed is the same order, and it finds what a lock prevents."""

from __future__ import annotations

import pytest

from tests.support.faults.interleave import Deadlock, Interleaving


class Cell:
    """Is read and written in two steps, as anything that is not one's own."""

    def __init__(self) -> None:
        self.value = 0

    def get(self) -> int:
        return self.value

    def put(self, value: int) -> None:
        self.value = value


def count_twice(seed: int, *, locked: bool) -> int:
    interleaving = Interleaving(seed)
    cell, lock = Cell(), interleaving.lock()
    seen = interleaving.wrap(cell)

    def add() -> None:
        if locked:
            with lock:
                seen.put(seen.get() + 1)
        else:
            seen.put(seen.get() + 1)

    interleaving.run(add, add)
    return cell.value


def test_a_lost_update_is_found_and_found_again() -> None:
    found = [count_twice(seed, locked=False) for seed in range(20)]
    assert set(found) == {1, 2}
    assert [count_twice(seed, locked=False) for seed in range(20)] == found


def test_a_lock_prevents_it() -> None:
    assert {count_twice(seed, locked=True) for seed in range(20)} == {2}


def test_failures_and_deadlocks_end_the_run() -> None:
    interleaving = Interleaving(1)
    cell = interleaving.wrap(Cell())

    def fail() -> None:
        cell.get()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        interleaving.run(fail, cell.get)

    def crosswise(seed: int) -> None:
        run = Interleaving(seed)
        one, two = run.lock(), run.lock()
        seen = run.wrap(Cell())

        def both(first: object, second: object) -> None:
            with first:  # type: ignore[attr-defined]
                seen.get()
                with second:  # type: ignore[attr-defined]
                    seen.get()

        run.run(lambda: both(one, two), lambda: both(two, one))

    found = 0
    for seed in range(20):
        try:
            crosswise(seed)
        except Deadlock:
            found += 1
    assert 0 < found < 20
