"""Says of an event who is meant: containers, networks and hosts by name, and the verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from driver.errors import InvalidArgument
from driver.services.ports import Address, Event, EventKind
from driver.services.seeing.roster import Roster, Sources

FRESH_S: Final = 1.0  # as old may be what is known of who is who ...
NEW_S: Final = 0.1  # ... and this if somebody is not known


class Verdict(StrEnum):
    """The way of a connection, or none."""

    HOST = "host"
    OVERLAY = "overlay"
    LOCAL = "local"  # directly, on one host
    REFUSED = "refused"


_ON_HOST_PATH: Final = ("connected", "accepted", "syn_unanswered")
_NO_REASON: Final = (*_ON_HOST_PATH[:2], "local", "overlay_received")  # nothing to add to verdict


@dataclass(frozen=True)
class Told:
    """An event as people read it."""

    event: Event
    at_s: float  # since 1970
    container: str  # "": not known
    network: str  # "": not known
    peer_name: str  # "": not known
    peer_host: str  # "": not known
    verdict: Verdict

    @property
    def reason(self) -> str:
        """Return the counter's name; "": the verdict says it all."""
        return "" if self.event.reason in _NO_REASON else self.event.reason


def verdict_of(event: Event) -> Verdict:
    """Return the way that the connection takes or has taken."""
    if event.kind is EventKind.REFUSED:
        return Verdict.REFUSED
    if event.reason in _ON_HOST_PATH:
        return Verdict.HOST
    return Verdict.LOCAL if event.reason == "local" else Verdict.OVERLAY


class Telling:
    """Translates events.  Thread-safe."""

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.monotonic,
                 wall_clock: Callable[[], float] = time.time) -> None:
        """clock: seconds, as the kernel's events have it.  wall_clock: seconds since 1970."""
        self._sources = sources
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._roster: Roster | None = None
        self._since_s = 0.0

    def roster(self, fresh_s: float = FRESH_S) -> Roster:
        """Return who is who, as of the last second, or less."""
        with self._lock:
            now_s = self._clock()
            if self._roster is None or now_s - self._since_s >= fresh_s:
                self._roster, self._since_s = Roster(self._sources), now_s
            return self._roster

    def tell(self, event: Event) -> Told:
        """Translate an event."""
        roster, vni = self.roster(), event.vni
        at_s = self._wall_clock() - (self._clock() - event.at_ns / 1e9)
        if vni is None:
            return Told(event, at_s, "", "", "", "", verdict_of(event))
        answering: Address = event.task or event.peer
        resident = None
        if event.local is not None:
            resident = roster.resident_at(vni, event.local)
            if resident is None:
                roster = self.roster(NEW_S)
                resident = roster.resident_at(vni, event.local)
        return Told(
            event, at_s, resident.name if resident is not None else "", roster.network_name(vni),
            roster.name_at(vni, answering),
            roster.host_name(event.host) if event.host is not None else "", verdict_of(event))


@dataclass(frozen=True)
class FlowFilter:
    """Which events are asked for; empty: all."""

    container: str = ""  # its name, or the beginning of its id
    network: str = ""  # its name or subnet, or the beginning of its id
    verdict: Verdict | None = None
    reason: str = ""  # a counter's name


def selection(wanted: FlowFilter, roster: Roster) -> Callable[[Event], bool]:
    """Return a test of events.  Errors: NotFound, Conflict."""
    resident = roster.resident(wanted.container) if wanted.container else None
    vni = roster.network(wanted.network).vni if wanted.network else None
    own = set() if resident is None else {
        (endpoint.vni, each.ip) for endpoint in resident.endpoints
        for each in (endpoint.address, endpoint.address6) if each is not None}

    def wants(event: Event) -> bool:
        return ((resident is None or (event.vni, event.local) in own)
                and (vni is None or event.vni == vni)
                and (wanted.verdict is None or verdict_of(event) is wanted.verdict)
                and (not wanted.reason or event.reason == wanted.reason))

    return wants


def check_reason(reason: str, known: Mapping[str, str]) -> None:
    """Raise if no counter has that name.  Error: InvalidArgument."""
    if reason and reason not in known:
        raise InvalidArgument(f"there is no reason {reason!r}: `slim counters` lists them")
