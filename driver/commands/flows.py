"""Runs `slim flows`: connections as they open and close, or what was refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from driver.commands.control_client import ask
from driver.commands.saying import say
from driver.commands.ss import age, amount
from driver.commands.table import GrowingTable, print_table
from driver.errors import SlimError
from driver.settings import Settings
from driver.work.shown import at_port, plain

SHORT_S: Final = 5.0  # without --follow
HEADING: Final = ("TIME", "EVENT", "CONTAINER", "", "PEER", "NAME", "HOST", "VERDICT", "REASON",
                  "LASTED", "IN", "OUT", "CLOSED BY")
_WIDTHS: Final = (12, 7, 12, 2, 17, 8, 16, 7, 13, 6, 6, 6, 9)
_NUMBERS: Final = (9, 10, 11)
REFUSED: Final = ("LAST", "CONTAINER", "", "PEER", "NAME", "COUNT", "REASON", "MEANING")
_NUMBERS_OF_REFUSED: Final = (5,)


def run_flows(settings: Settings, wanted: dict[str, object], *, follow: bool, refused: bool,
              as_json: bool, clock: Callable[[], float] = time.monotonic) -> int:
    """Print one line per event, for some seconds or until it is interrupted; return 0.

    wanted: the request of Slim.Flows.  refused: instead what was refused before, at once.
    Errors: NotRunningError, SlimError.
    """
    if refused:
        return _print_refused(settings, wanted, as_json=as_json)
    table = GrowingTable(HEADING, _WIDTHS, _NUMBERS)
    end_s = None if follow else clock() + SHORT_S
    try:
        for number, answer in enumerate(_answers(settings, wanted)):
            if as_json:
                _print_json(answer)
            else:
                if not number:
                    table.print_heading()
                _print(answer, table)
            if end_s is not None and clock() >= end_s:
                break
    except KeyboardInterrupt:
        pass
    return 0


def _answers(settings: Settings, wanted: dict[str, object]) -> Iterator[dict[str, Any]]:
    """Yield answers for ever, the first without events."""
    after = ""
    while True:
        answer = ask(settings.socket, "Slim.Flows", {**wanted, "After": after})
        if not isinstance(answer.get("Events"), list) or not isinstance(answer.get("Next"), str):
            raise SlimError(f"{settings.socket} answers no events")
        yield answer
        after = str(answer["Next"])


def _print(answer: dict[str, Any], table: GrowingTable) -> None:
    if answer["Paused"]:
        print("... what happened in the last seconds is not shown: nobody has asked", flush=True)
    for event in answer["Events"]:
        table.print(_row(event))
    if answer["Lost"]:
        say(f"... lost {int(answer['Lost'])} events, of all containers: more came than are read")


def _print_json(answer: dict[str, Any]) -> None:
    """Print an object a line."""
    if answer["Paused"]:
        print(json.dumps({"Paused": True}), flush=True)
    for event in answer["Events"]:
        print(json.dumps(event), flush=True)
    if answer["Lost"]:
        print(json.dumps({"Lost": answer["Lost"]}), flush=True)


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    ended = event["LastedSeconds"] is not None
    times = f" x{int(event['Times'])}" if (event["Times"] or 0) > 1 else ""
    return (_moment(event["Time"])[11:], plain(event["Event"]), _own(event),
            "<-" if event["Direction"] == "in" else "->",
            _at(event["Peer"], event["PeerPort"]), plain(event["PeerName"] or "-"),
            plain(event["PeerHost"] or "-"), plain(event["Verdict"]),
            plain(event["Reason"] or "-") + times,
            _lasted(event["LastedSeconds"]) if ended else "-",
            amount(event["BytesIn"]) if ended else "-",
            amount(event["BytesOut"]) if ended else "-", plain(event["ClosedBy"] or "-"))


def _own(event: dict[str, Any]) -> str:
    """Return the container; with its port if that was called."""
    name = plain(event["Container"] or event["Local"] or "-")
    port = event["LocalPort"]
    return f"{name}:{int(port)}" if port and event["Direction"] == "in" else name


def _at(address: str | None, port: int | None) -> str:
    if address is None:
        return "(others)"
    return plain(at_port(address, port) if port else address)


def _lasted(seconds: float) -> str:
    """Return a duration with three digits, or in its two largest units."""
    for limit_s, unit, factor in ((0.001, "us", 1e6), (1, "ms", 1e3), (100, "s", 1)):
        if seconds < limit_s:
            return f"{seconds * factor:.3g}{unit}"
    return age(seconds)


def _moment(utc: str) -> str:
    """Return date and time as of here, with milliseconds."""
    return datetime.fromisoformat(utc).astimezone().isoformat(" ", "milliseconds")[:23]


def _print_refused(settings: Settings, wanted: dict[str, object], *, as_json: bool) -> int:
    answer = ask(settings.socket, "Slim.Refusals", wanted)
    found = answer.get("Refusals")
    if not isinstance(found, list):
        raise SlimError(f"{settings.socket} answers no refusals")
    if as_json:
        print(json.dumps(answer, indent=2))
        return 0
    print_table([REFUSED, *map(_refusal, found)], _NUMBERS_OF_REFUSED)
    return 0


def _refusal(found: dict[str, Any]) -> tuple[str, ...]:
    inbound = found["Direction"] == "in"
    return (_moment(found["Last"])[:19], _own(found), "<-" if inbound else "->",
            _at(found["Peer"], None if inbound else found["PeerPort"]),
            plain(found["PeerName"] or "-"), str(int(found["Count"])), plain(found["Reason"]),
            plain(found["Meaning"]))
