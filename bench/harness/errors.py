"""Defines the one error that the benchmark's user is meant to read; all others are defects."""

from __future__ import annotations


class BenchError(Exception):
    """The text says what was wrong and what to do."""
