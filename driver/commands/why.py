"""Runs `slim why`: which way a connection between two containers would take now, and why."""

from __future__ import annotations

import json
import textwrap
from typing import Any, Final

from driver.commands.control_client import ask
from driver.commands.saying import say
from driver.errors import SlimError
from driver.settings import Settings
from driver.work.shown import plain

WIDTH: Final = 100
_MARKS: Final = {True: "ok", False: "NO", None: "?"}
_NAME_WIDTH: Final = 10


def run_why(settings: Settings, container: str, target: str, *, as_json: bool) -> int:
    """Print the verdict, then what was looked at; return 0.

    target: a container or an address, with `:PORT` or without.
    Errors: NotRunningError, SlimError.
    """
    answer = ask(settings.socket, "Slim.Why", {"Container": container, "Target": target})
    ways = answer.get("Ways")
    if not isinstance(ways, list):
        raise SlimError(f"{settings.socket} answers no ways")
    if as_json:
        print(json.dumps(answer, indent=2))
        return 0
    say(answer["Verdict"])
    for way in ways:
        say()
        say(_title(str(answer["Container"]), way))
        for check in way["Checks"]:
            _print_check(check)
    return 0


def _title(container: str, way: dict[str, Any]) -> str:
    port = f":{way['Port']}" if way["Port"] else ""
    target = f"[{way['Target']}]{port}" if port and ":" in way["Target"] else way["Target"] + port
    who = ", ".join(filter(None, (
        way["PeerName"], way["PeerHost"],
        f"a task behind {way['Service']}" if way["Service"] else "")))
    source = f"{way['Source']} ({container})" if way["Source"] else container
    return plain(f"{source} -> {target}" + (f" ({who})" if who else "")
                 + f": {way['Path']}")


def _print_check(check: dict[str, Any]) -> None:
    head = f"  {_MARKS[check['Good']]:<2}  {plain(check['Check']):<{_NAME_WIDTH}} "
    indent = " " * len(head)
    reason = f" [{check['Reason']}]" if check["Reason"] else ""
    _print_wrapped(check["Says"] + reason, head, indent)
    if check["Remedy"]:
        _print_wrapped(f"what to do: {check['Remedy']}", indent, indent)


def _print_wrapped(text: str, first: str, others: str) -> None:
    say(*textwrap.wrap(plain(text), WIDTH, initial_indent=first, subsequent_indent=others,
                       break_long_words=False, break_on_hyphens=False))
