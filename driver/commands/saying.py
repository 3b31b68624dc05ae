"""Prints lines for people: the only way by which commands write to a terminal, tables included.

Whatever a line is made of (names of hosts and containers, answers, errors) may be foreign text.
"""

from __future__ import annotations

import sys

from driver.work.shown import plain


def say(*lines: object, to_errors: bool = False) -> None:
    """Print lines, each of them one, without what a terminal would obey; none: an empty one."""
    for line in lines or ("",):
        print(plain(line), file=sys.stderr if to_errors else sys.stdout, flush=True)
