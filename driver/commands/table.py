"""Prints a table for people, its columns as wide as they need; cells may be foreign text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from driver.commands.saying import say


def print_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print the rows; see `table`."""
    for line in table(rows, right):
        say(line)


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return a line for each row, the heading first; all have the same number of cells.

    right: the columns that are aligned to the right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(row, widths, right) for row in rows]


class GrowingTable:
    """A table whose rows are not known beforehand: columns grow as wider cells come."""

    def __init__(self, heading: Sequence[str], widths: Sequence[int],
                 right: Collection[int] = ()) -> None:
        """widths: of the columns, at least.  right: as in print_table."""
        self._heading = heading
        self._widths = list(map(max, widths, map(len, heading)))
        self._right = right

    def print_heading(self) -> None:
        """Print the heading."""
        self.print(self._heading)

    def print(self, row: Sequence[str]) -> None:
        """Print one row, at once."""
        self._widths = list(map(max, self._widths, map(len, row)))
        say(_line(row, self._widths, self._right))


def _line(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    return "  ".join(cell.rjust(width) if at in right else cell.ljust(width)
                     for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
