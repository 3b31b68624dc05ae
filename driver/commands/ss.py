"""Runs `slim ss`: the open TCP connections of this host's containers, as programs see them."""

from __future__ import annotations

import json
from typing import Any, Final

from driver.commands.control_client import ask
from driver.commands.saying import say
from driver.commands.table import print_table
from driver.errors import SlimError
from driver.settings import Settings
from driver.work.shown import at_port, plain

HEADING: Final = ("CONTAINER", "LOCAL", "PEER", "NAME", "HOST", "PATH", "STATE", "AGE", "RTT",
                  "RETRANS", "IN", "OUT")
_NUMBERS: Final = range(7, 12)
LISTENERS: Final = ("CONTAINER", "LOCAL", "NETWORK", "WAITING", "BACKLOG")
_NUMBERS_OF_LISTENERS: Final = (3, 4)


def run_ss(settings: Settings, wanted: dict[str, object], *, as_json: bool) -> int:
    """Print one line per connection, or listener; return 0.

    wanted: the request of Slim.Sockets.  Errors: NotRunningError, SlimError.
    """
    answer = ask(settings.socket, "Slim.Sockets", wanted)
    found, more, unread = answer.get("Sockets"), answer.get("More"), answer.get("Unread")
    if not isinstance(found, list) or not isinstance(more, dict) or not isinstance(unread, dict):
        raise SlimError(f"{settings.socket} answers no sockets")
    if as_json:
        print(json.dumps(answer, indent=2))
        return 0
    if wanted["Listening"]:
        print_table([LISTENERS, *map(_listener, found)], _NUMBERS_OF_LISTENERS)
    else:
        print_table([HEADING, *map(_connection, found)], _NUMBERS)
    _print_rest(more, unread)
    return 0


def _print_rest(more: dict[str, int], unread: dict[str, str]) -> None:
    """Say what the table lacks."""
    for name, count in more.items():
        say(f"... and {count} more of {name}: narrow it down by container, --network or "
              "--path")
    for name, why in unread.items():
        say(f"not all of {name}: {why}")


def _connection(found: dict[str, Any]) -> tuple[str, ...]:
    return (plain(found["Container"]), _at(found["Local"], found["LocalPort"]),
            _at(found["Peer"], found["PeerPort"]), plain(found["PeerName"] or "-"),
            plain(found["PeerHost"] or "-"), plain(found["Path"]), plain(found["State"]),
            age(found["AgeSeconds"]), rtt(found["RttMicroseconds"]),
            str(int(found["Retransmissions"])), amount(found["BytesIn"]),
            amount(found["BytesOut"]))


def _listener(found: dict[str, Any]) -> tuple[str, ...]:
    return (plain(found["Container"]), _at(found["Local"], found["LocalPort"]),
            plain(found["Network"] or "-"), str(int(found["Waiting"])),
            str(int(found["Backlog"])))


def _at(address: str, port: int) -> str:
    return plain(at_port(address, port))


def age(seconds: float | None) -> str:
    """Return how long something has lasted, in its two largest units."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit_s, unit, lesser_s, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"),
                                           (60, "m", 1, "s")):
        if whole >= unit_s:
            return f"{whole // unit_s}{unit}{whole % unit_s // lesser_s:02}{lesser}"
    return f"{whole}s"


def rtt(us: int | None) -> str:
    """Return a round-trip time."""
    return "-" if not us else f"{us / 1000:.2f}ms" if us < 10_000 else f"{us / 1000:.0f}ms"


def amount(count: float) -> str:
    """Return bytes in a unit that leaves few digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" or count >= 100 else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}TB"
