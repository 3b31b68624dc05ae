"""Tests that numbers with which nothing could be measured are refused before anything starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.harness import bounds


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("1000", 1000)])
def test_numbers_within(text: str, number: int) -> None:
    assert bounds.rounds(text) == number


@pytest.mark.parametrize(("module", "arguments", "said"), [
    ("bench.demo", ["--rounds", "0"], "argument --rounds: must be from 1 to 1000, not 0"),
    ("bench.demo", ["--starts", "-1"], "argument --starts: must be from 1 to 1000, not -1"),
    ("bench.demo", ["--seconds", "nan"], "argument --seconds: must be from 0.1 to 600, not nan"),
    ("bench.studies.cost", ["--rounds", "x"], "argument --rounds: 'x' is no number"),
    ("bench.load.main", ["--connections", "-1"],
     "argument --connections: must be from 0 to 1e+06, not -1"),
])
def test_others_end_it_at_once(module: str, arguments: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
