"""Inverses: their order, and that none is skipped because another failed."""

from __future__ import annotations

import logging

import pytest

from driver.errors import LinkError
from driver.work.undo import Undo, run_all


def test_success_keeps_everything() -> None:
    undone: list[str] = []
    with Undo() as undo:
        undo.push("a", lambda: undone.append("a"))
    assert undone == []


def test_failure_runs_inverses_in_reverse_and_raises_the_first(caplog) -> None:
    undone: list[str] = []

    def stuck() -> None:
        raise LinkError("stuck link")

    def use_case() -> None:
        with Undo() as undo:
            undo.push("a", lambda: undone.append("a"))
            undo.push("b", stuck)
            undo.push("c", lambda: undone.append("c"))
            raise KeyError("the first")

    with pytest.raises(KeyError, match="the first"):
        use_case()
    assert undone == ["c", "a"]
    assert [record.getMessage() for record in caplog.records] == ["undo: b failed: stuck link"]


def test_run_all_runs_all_and_raises_the_first(caplog) -> None:
    caplog.set_level(logging.ERROR)
    done: list[str] = []

    def fail(text: str) -> None:
        raise LinkError(text)

    with pytest.raises(LinkError, match="one"):
        run_all([("1", lambda: fail("one")), ("2", lambda: done.append("2")),
                 ("3", lambda: fail("three")), ("4", lambda: done.append("4"))])
    assert done == ["2", "4"]
    assert "three" in caplog.text
    assert "one" not in caplog.text  # raised, so not logged too
