"""Turns the driver's answer to Slim.Picture into the lines of `slim top`.

top_rows.py has the rows; this module what is said of all, and the columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from driver.commands.ss import amount
from driver.commands.table import table
from driver.commands.top_rows import (
    Container,
    Names,
    Pair,
    Picture,
    containers,
    joined,
    short,
    telling,
)
from driver.work.shown import plain, some_of

INSIDE: Final = ("host", "overlay", "local")  # paths of slim's networks
CONNECTIONS: Final = ("connected", "local")  # counters of connections made; and all fallbacks
SAID_SHOWN: Final = 200  # of a problem
PAIRS_HEADING: Final = ("FROM", "HOST", "TO", "HOST", "PATH", "OPEN", "NEW/S", "OUT/S", "IN/S")
CONTAINERS_HEADING: Final = ("CONTAINER", "HOST", "NETWORK", "OPEN", "NEW/S", "OUT/S", "IN/S",
                             "OVERLAY", "PEERS")


def lines(picture: Picture, *, cluster: bool, by: str, by_pairs: bool, rows: int = 0
          ) -> list[str]:
    """Return all lines; rows: how many there may be, 0: any number."""
    head = heading(picture, cluster=cluster)
    room = max(1, rows - len(head) - 2) if rows else 0
    names, pairs = Names(picture), joined(picture)
    found = _pairs(pairs, names, by, room) if by_pairs else _containers(pairs, names, by, room)
    return [*head, "", *found]


def heading(picture: Picture, *, cluster: bool) -> list[str]:
    """Return what is said above the table: who is seen, what goes on in all, and what is wrong."""
    hosts = picture["Hosts"]
    told = [each for each in hosts if each["State"] in ("here", "ok")]
    here = next((each["Name"] for each in hosts if each["State"] == "here"), "?")
    asked = hosts if cluster else told
    every = picture["EverySeconds"]
    who = (f"{len(told)} of {len(asked)} hosts" if cluster else "this host alone")
    first = [f"slim top on {short(here)}: {who}",
             f"a sample each {every:g} s" if every else "the first sample is being taken"]
    if more := int(picture["More"]["Pairs"]):
        first.append(f"{more} pairs of little traffic are left out")
    rates = Rates(picture, cluster=cluster)
    return [", ".join(first), rates.line(), *_wrong(asked)]


class Rates:
    """What goes on in all."""

    def __init__(self, picture: Picture, *, cluster: bool) -> None:
        """cluster: each byte is counted where it is sent; else also what comes from other hosts."""
        self.connections = 0.0
        shown = telling(picture)
        self._reasons: dict[str, Counter[str]] = {"fallback": Counter(), "drop": Counter()}
        for each in picture["Reasons"]:
            if each["Host"] not in shown:
                continue
            self.connections += each["PerSecond"] * (
                each["Name"] in CONNECTIONS or each["Kind"] == "fallback")
            if each["Kind"] in self._reasons and each["PerSecond"]:
                self._reasons[each["Kind"]][each["Name"]] += each["PerSecond"]
        by_path = dict.fromkeys(INSIDE, 0.0)
        for each in picture["Totals"]:
            if each["Path"] in by_path and each["Host"] in shown:
                by_path[each["Path"]] += each["BytesOutPerSecond"] + (
                    0.0 if cluster or each["Path"] == "local" else each["BytesInPerSecond"])
        self.bytes = sum(by_path.values())
        between = by_path["host"] + by_path["overlay"]
        self.overlay = by_path["overlay"] / between if between else None

    def line(self) -> str:
        """Say it."""
        share = "-" if self.overlay is None else f"{self.overlay:.0%}"
        return (f"{rate(self.connections)} connections/s, {amount(self.bytes)}/s, overlay {share} "
                f"of the bytes between hosts, {self._of('fallback')}, {self._of('drop')}")

    def _of(self, kind: str) -> str:
        """Say how many there are of a kind, and which reason has the most."""
        reasons = self._reasons[kind]
        most = "".join(f" ({short(name)})" for name, _ in reasons.most_common(1))
        return f"{rate(sum(reasons.values()))} {kind}s/s{most}"


def _wrong(hosts: Sequence[dict[str, Any]]) -> list[str]:
    """Say which hosts do not tell, and why; many of one kind together."""
    by_state: dict[str, list[str]] = {}
    found = []
    for each in hosts:
        if each["State"] not in ("here", "ok"):
            by_state.setdefault(each["State"], []).append(_host(each))
        else:
            found += [f"! {short(each['Name'])}: {short(said, SAID_SHOWN)}"
                      for said in each["Problems"][:2]]
    return [f"! {plain(state)}: {some_of(said)}"
            for state, said in sorted(by_state.items())] + found[:3]


def _host(each: dict[str, Any]) -> str:
    why = "".join(f" ({short(said, SAID_SHOWN)})" for said in each["Problems"][:1])
    return f"{short(each['Name'])}{why}"


def _pairs(pairs: Iterable[Pair], names: Names, by: str, room: int) -> list[str]:
    chosen = _first(pairs, by, room)
    return table([PAIRS_HEADING, *((
        names.container(each.first), names.host(each.first), names.container(each.second),
        names.host(each.second), short(each.path) + ", stale" * each.stale,
        str(each.connections), rate(each.opened), amount(each.out_bytes),
        amount(each.in_bytes)) for each in chosen)], range(5, 9))


def _containers(pairs: Iterable[Pair], names: Names, by: str, room: int) -> list[str]:
    chosen = _first(containers(pairs, names), by, room)
    return table([CONTAINERS_HEADING, *((
        names.container(each.at), names.host(each.at), names.network(each.at),
        str(each.connections), rate(each.opened), amount(each.out_bytes), amount(each.in_bytes),
        f"{each.overlay_bytes / each.bytes:.0%}" if each.bytes else "-", str(len(each.peers)))
        for each in chosen)], range(3, 9))


def _first(rows: Iterable[Any], by: str, room: int) -> list[Any]:
    """Return the most important rows; room 0: all."""
    def order(each: Any) -> tuple[object, ...]:
        first = (each.bytes,) if by == "bytes" else (each.opened, each.connections)
        return (isinstance(each, Pair) and each.stale,
                *(-value for value in (*first, each.bytes, each.connections)),
                each.at if isinstance(each, Container) else (each.first, each.second))

    ordered = sorted(rows, key=order)
    return ordered[:room] if room else ordered


def rate(per_s: float) -> str:
    """Return a number per second in few digits."""
    return f"{per_s:.0f}" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}"
