"""Tests that a network's list of broadcast receivers changes only where it must."""

from __future__ import annotations

from random import Random

import pytest

from driver.datapath.tables.maps import FloodTarget, flood_slots

A, B, C, D = ((0, number) for number in range(1, 5))


@pytest.mark.parametrize(("before", "targets", "after"), [
    ([], [A, B], [A, B]),
    ([A, B], [A, B, C], [A, B, C]),
    ([A, B], [C, A, B], [A, B, C]),
    ([A, B, C], [A, C], [A, C]),
    ([A, B, C], [B, C, D], [D, B, C]),
    ([A, B, C, D], [D, C], [D, C]),
    ([None, None, None], [A, B], [A, B]),
    ([A, A], [A, A, A], [A, A, A]),
    ([A, B], [], []),
])
def test_targets_stay_where_they_are(before: list[FloodTarget | None],
                                     targets: list[FloodTarget], after: list[FloodTarget]) -> None:
    assert sorted(flood_slots(before, targets)) == sorted(targets)
    assert flood_slots(before, targets) == after


def test_one_more_or_one_less_is_one_write_or_two() -> None:
    random = Random(7)
    targets: list[FloodTarget] = []
    slots: list[FloodTarget] = []
    for number in range(500):
        if targets and random.random() < 0.4:
            targets.remove(random.choice(targets))
        else:
            targets.append((0, number))
            random.shuffle(targets)
        after = flood_slots(slots, targets)
        assert sorted(after) == sorted(targets)
        assert sum(old != new for old, new in zip(slots, after, strict=False)) <= 1
        slots = after
