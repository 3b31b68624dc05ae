"""Joins what hosts tell of pairs in the driver's answer to Slim.Picture, for `slim top`.

A pair of two hosts is told of by both, each as it sees it: here it is one row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from driver.work.shown import plain

NAME_SHOWN: Final = 32  # characters of a name

Picture = dict[str, Any]  # as the driver answers
End = tuple[int, str]  # VNI and address


@dataclass
class Pair:
    """Connections between two addresses by one path; `out`: bytes per second from `first`."""

    first: End
    second: End
    path: str
    stale: bool = False  # only a host that is silent by now has told of it
    connections: int = 0
    opened: float = 0.0
    out_bytes: float = 0.0
    in_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        """Return bytes per second in both directions."""
        return self.out_bytes + self.in_bytes


@dataclass
class Container:
    """All that an endpoint has; a container has an endpoint in each of its networks."""

    at: End
    connections: int = 0
    opened: float = 0.0
    out_bytes: float = 0.0
    in_bytes: float = 0.0
    overlay_bytes: float = 0.0
    peers: set[End] = field(default_factory=set)

    @property
    def bytes(self) -> float:
        """Return bytes per second in both directions."""
        return self.out_bytes + self.in_bytes


class Names:
    """Who has which address, and where."""

    def __init__(self, picture: Picture) -> None:
        self._hosts = {each["Id"]: each["Name"] for each in picture["Hosts"]}
        self._networks = {each["Vni"]: each["Name"] for each in picture["Networks"]}
        self._endpoints = {(each["Vni"], address): each for each in picture["Endpoints"]
                           for address in (each["Address"], each["Address6"]) if address}
        self._first = {end: (each["Vni"], each["Address"] or each["Address6"])
                       for end, each in self._endpoints.items()}

    def container(self, end: End) -> str:
        """Return an address's container; the address itself, if that is not known."""
        return short(self._endpoints.get(end, {}).get("Container") or end[1])

    def host(self, end: End) -> str:
        """Return the name of its host."""
        host = self._endpoints.get(end, {}).get("Host", "")
        return short(self._hosts.get(host, host[:12]) or "-")

    def network(self, end: End) -> str:
        """Return the name of its network."""
        return short(self._networks.get(end[0], f"VNI {end[0]}"))

    def endpoint(self, end: End) -> End:
        """Return the address that stands for all of the endpoint's."""
        return self._first.get(end, end)


def joined(picture: Picture) -> list[Pair]:
    """Return each pair once, whether one of its ends tells of it or both.

    Both see the same connections: what one of them has not seen yet, the other may have.  What a
    host told before it fell silent counts only for pairs that no other one tells of.
    """
    of_now = telling(picture)
    found: dict[tuple[End, End, str], Pair] = {}
    for stale in (False, True):
        for each in picture["Pairs"]:
            if (each["Reporter"] in of_now) is stale:
                continue
            here, there = _end(each["From"]), _end(each["To"])
            first, second = sorted((here, there))
            pair = found.setdefault((first, second, each["Path"]),
                                    Pair(first, second, each["Path"], stale))
            if pair.stale is not stale:
                continue
            out_bytes, in_bytes = each["BytesOutPerSecond"], each["BytesInPerSecond"]
            if first != here:
                out_bytes, in_bytes = in_bytes, out_bytes
            pair.connections = max(pair.connections, each["Connections"])
            pair.opened = max(pair.opened, each["OpenedPerSecond"])
            pair.out_bytes = max(pair.out_bytes, out_bytes)
            pair.in_bytes = max(pair.in_bytes, in_bytes)
    return list(found.values())


def telling(picture: Picture) -> set[str]:
    """Return the hosts whose figures are of now."""
    return {each["Id"] for each in picture["Hosts"] if each["State"] in ("here", "ok")}


def containers(pairs: Iterable[Pair], names: Names) -> list[Container]:
    """Return what each endpoint has, of the pairs that are told of."""
    found: dict[End, Container] = {}
    for pair in pairs:
        for end, peer, out_bytes, in_bytes in (
                (pair.first, pair.second, pair.out_bytes, pair.in_bytes),
                (pair.second, pair.first, pair.in_bytes, pair.out_bytes)):
            if end[0] == 0:  # outside slim's networks
                continue
            at = names.endpoint(end)
            one = found.setdefault(at, Container(at))
            one.connections += pair.connections
            one.opened += pair.opened
            one.out_bytes += out_bytes
            one.in_bytes += in_bytes
            one.overlay_bytes += (out_bytes + in_bytes) * (pair.path == "overlay")
            one.peers.add(names.endpoint(peer))
    return list(found.values())


def short(text: object, most: int = NAME_SHOWN) -> str:
    """Return a text from outside for a terminal, cut to so many characters."""
    shown = plain(str(text)[:most + 1])
    return shown if len(shown) <= most else shown[:most - 1] + "…"


def _end(said: dict[str, Any]) -> End:
    return int(said["Vni"]), str(said["Address"])
