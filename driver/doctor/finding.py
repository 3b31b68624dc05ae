"""Defines what a check of `slim doctor` finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver.settings import Settings


class CheckError(Exception):
    """A check failed; the text says why, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output."""

    name: str
    problem: str | None  # None: all is well
    detail: str = ""  # what was found

    def __str__(self) -> str:
        if self.problem is None:
            return f"ok    {self.name:<12} {self.detail}".rstrip()
        return f"FAIL  {self.name:<12} {self.problem}"


Check = Callable[[Settings], str]  # what was found; CheckError: what is wrong


def one_line(text: str) -> str:
    """Return the text's lines as one."""
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())
