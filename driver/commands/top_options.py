"""Defines the arguments of `slim top`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Final

BY: Final = ("bytes", "connections")
INTERVAL_S: Final = 2.0
_LEAST_S, _MOST_S = 0.5, 3600.0


def add_top_options(parser: ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--cluster", dest="all_hosts", action="store_true",
                        help="all hosts, not this one alone")
    parser.add_argument("--by", default=BY[0], choices=BY, help="what the busiest is judged by")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--pairs", action="store_true", help="a row for each pair (the default)")
    rows.add_argument("--containers", action="store_true", help="a row for each container")
    parser.add_argument("--once", action="store_true", help="print once, and end")
    parser.add_argument("--json", dest="as_json", action="store_true",
                        help="print all that is known once, for programs")
    parser.add_argument("--interval", dest="interval_s", type=_seconds, default=INTERVAL_S,
                        metavar="S", help="seconds between two refreshes")


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not _LEAST_S <= found <= _MOST_S:
        raise ArgumentTypeError(f"want seconds from {_LEAST_S:g} to {_MOST_S:g}, got {text!r}")
    return found
