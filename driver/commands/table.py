"""Prints a table for people, its columns as wide as they need; cells may be foreign text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from driver.commands.saying import say
from driver.work.shown import plain


def print_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print the rows, the heading first; all have the same number of cells.

    right: the columns that are aligned to the right, as numbers are.
    """
    shown = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        say("  ".join(cell.rjust(width) if at in right else cell.ljust(width)
                      for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip())
