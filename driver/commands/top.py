"""Runs `slim top`: who talks to whom at this moment, the busiest first, refreshed in place."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Final

from driver.commands import screen
from driver.commands.control_client import ask
from driver.commands.saying import say
from driver.commands.top_options import INTERVAL_S
from driver.commands.top_rows import Picture
from driver.commands.top_view import lines
from driver.errors import SlimError
from driver.settings import Settings
from driver.work.shown import plain

READY_S: Final = 12.0  # for the first rates, of all hosts that answer
AGAIN_S: Final = 0.5  # between questions until then
KEYS: Final = "q: quit, p: pairs, c: containers, b: by bytes, n: by connections"
_LISTS: Final = ("Hosts", "Networks", "Endpoints", "Pairs", "Reasons", "Totals")


@dataclass(frozen=True)
class Wanted:
    """What is asked for on the command line."""

    cluster: bool = False
    by: str = "bytes"
    pairs: bool = True  # else containers
    once: bool = False
    as_json: bool = False
    interval_s: float = INTERVAL_S


def wanted_of(options: dict[str, Any]) -> Wanted:
    """Return what these arguments ask for."""
    return Wanted(options["all_hosts"], options["by"], not options["containers"], options["once"],
                  options["as_json"], options["interval_s"])


def run_top(settings: Settings, wanted: Wanted) -> int:
    """Show it until a key, or once; return 0.  Errors: NotRunningError, SlimError."""
    if wanted.as_json or wanted.once or not sys.stdout.isatty():
        found = _first(settings, wanted)
        if wanted.as_json:
            print(json.dumps(found, indent=2))
        else:
            say(*_lines(found, wanted))
        return 0
    found = _ask(settings, wanted)  # an error before the terminal is taken over
    try:
        with screen.opened() as terminal:
            _show(settings, wanted, terminal, found)
    except KeyboardInterrupt:
        pass
    return 0


def _show(settings: Settings, wanted: Wanted, terminal: screen.Screen, found: Picture) -> None:
    failure = ""
    while True:
        room = terminal.size().lines
        terminal.show([*_lines(found, wanted, room - 1 - bool(failure)),
                       *([f"! {plain(failure)}"] if failure else []), KEYS])
        end_s = time.monotonic() + wanted.interval_s
        while (left_s := end_s - time.monotonic()) > 0:
            pressed = terminal.key(left_s)
            if pressed == "q":
                return
            other = _chosen(wanted, pressed)
            if other != wanted:
                wanted = other
                break
        try:
            found, failure = _ask(settings, wanted), ""
        except SlimError as error:  # the last picture stays, with the reason
            failure = str(error)


def _chosen(wanted: Wanted, pressed: str) -> Wanted:
    """Return what is wanted after a key."""
    return {"p": replace(wanted, pairs=True), "c": replace(wanted, pairs=False),
            "b": replace(wanted, by="bytes"), "n": replace(wanted, by="connections")
            }.get(pressed, wanted)


def _first(settings: Settings, wanted: Wanted) -> Picture:
    """Ask until there are rates, or there has been time enough for them."""
    end_s = time.monotonic() + READY_S
    while True:
        found = _ask(settings, wanted)
        if found.get("Ready") or time.monotonic() >= end_s:
            return found
        time.sleep(AGAIN_S)


def _ask(settings: Settings, wanted: Wanted) -> Picture:
    found = ask(settings.socket, "Slim.Picture", {"Cluster": wanted.cluster})
    if not all(isinstance(found.get(name), list) for name in _LISTS):
        raise SlimError(f"{settings.socket} answers no picture")
    return found


def _lines(found: Picture, wanted: Wanted, room: int = 0) -> list[str]:
    return lines(found, cluster=wanted.cluster, by=wanted.by, by_pairs=wanted.pairs, rows=room)
