"""Keeps and logs what was refused, by container: connections, SYNs and packets.

However much is refused, by however many addresses: the log gets a few lines a minute, and the rest
is a number.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from driver.services.ports import Address, Event
from driver.services.seeing.telling import Telling, Told
from driver.work.shown import at_port, plain

log = logging.getLogger("slim.refused")

KEPT: Final = 200
PEERS: Final = 5  # of one container and reason that are kept by address; the others are one
MINUTE_S: Final = 60.0
LINES: Final = 30  # in a minute, of all containers together ...
LINES_OF_ONE: Final = 10  # ... and of each
# Nobody means to do this: somebody forges packets, or tries ports.
_SUSPICIOUS: Final = frozenset((
    "spoofed_source", "foreign_flow", "forged_option", "vlan_tag", "syn_no_option",
    "syn_unknown_caller", "syn_other_network"))

_Whose = tuple[str, object, str]  # container, own address, reason
_Key = tuple[_Whose, Address | None]


@dataclass(frozen=True)
class Refusal:
    """What a container was refused, by or to one peer, since it was first seen."""

    first_s: float  # since 1970, like the next
    last_s: float
    container: str  # "": not known; its `own` address may still be
    own: Address | None
    own_port: int  # 0: not known
    network: str  # "": not known
    inbound: bool  # the peer has called
    peer: Address | None  # None: too many to be named
    peer_port: int  # as of the last time; 0: not known
    peer_name: str  # "": not known
    reason: str  # a counter's name
    meaning: str
    count: int


@dataclass
class _Entry:
    refusal: Refusal
    logged_s: float | None = None  # monotonic
    unlogged: int = 0


@dataclass
class _Lines:
    """The log's lines of one minute."""

    since_s: float = 0.0
    written: Counter[tuple[str, object]] = field(default_factory=Counter)  # by container
    left_out: int = 0


class Refusals:
    """The last refusals.  Thread-safe."""

    def __init__(self, telling: Telling, meanings: Mapping[str, str],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """meanings: of the counters, by name.  clock: seconds, monotonic."""
        self._telling = telling
        self._meanings = meanings
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()  # the last one last
        self._peers: dict[_Whose, int] = {}  # entries of each
        self._lines = _Lines()

    def last(self) -> list[Refusal]:
        """Return what was refused, the last first; at most 200 of container, reason and peer."""
        with self._lock:
            return [entry.refusal for entry in reversed(self._entries.values())]

    def note(self, events: Sequence[Event]) -> None:
        """Take refusals."""
        told = [self._telling.tell(event) for event in events]
        with self._lock:
            for each in told:
                self._note(each)

    def _note(self, told: Told) -> None:
        event = told.event
        whose = (told.container, event.local, event.reason)
        key: _Key = whose, event.peer
        entry = self._entries.get(key)
        if entry is None and self._peers.get(whose, 0) >= PEERS:
            key = whose, None
            entry = self._entries.get(key)
        before = entry.refusal if entry is not None else None
        refusal = Refusal(
            before.first_s if before else told.at_s, told.at_s, told.container, event.local,
            event.local_port, told.network, event.inbound, key[1], event.peer_port,
            told.peer_name if key[1] is not None else "", event.reason,
            self._meanings.get(event.reason, ""), event.times + (before.count if before else 0))
        if entry is None:
            entry = self._entries[key] = _Entry(refusal)
            self._peers[whose] = self._peers.get(whose, 0) + 1
            self._forget_oldest()
        entry.refusal = refusal
        entry.unlogged += event.times
        self._entries.move_to_end(key)
        self._log(entry)

    def _forget_oldest(self) -> None:
        while len(self._entries) > KEPT:
            (whose, _), _ = self._entries.popitem(last=False)
            self._peers[whose] -= 1
            if not self._peers[whose]:
                del self._peers[whose]

    def _log(self, entry: _Entry) -> None:
        now_s = self._clock()
        if entry.logged_s is not None and now_s - entry.logged_s < MINUTE_S:
            return
        if now_s - self._lines.since_s >= MINUTE_S:
            if self._lines.left_out:
                log.warning("refused: %d lines were left out, of more than %d of one container or "
                            "%d in all in a minute: see `slim flows --refused`",
                            self._lines.left_out, LINES_OF_ONE, LINES)
            self._lines = _Lines(now_s)
        whose = entry.refusal.container, entry.refusal.own
        written = self._lines.written
        if written.total() >= LINES or written[whose] >= LINES_OF_ONE:
            self._lines.left_out += 1
            return
        written[whose] += 1
        suspicious = entry.refusal.reason in _SUSPICIOUS
        log.log(logging.WARNING if suspicious else logging.INFO, "%s",
                sentence(entry.refusal, entry.unlogged))
        entry.logged_s, entry.unlogged = now_s, 0


def sentence(refusal: Refusal, times: int) -> str:
    """Return the log's line, without control characters."""
    container = plain(refusal.container) if refusal.container else (
        at(refusal.own, 0) if refusal.own is not None else "an unknown container")
    if refusal.inbound and refusal.own_port:
        container += f":{refusal.own_port}"
    if refusal.peer is None:
        peer = "many others"
    else:
        peer = at(refusal.peer, 0 if refusal.inbound else refusal.peer_port)
    name = f" ({plain(refusal.peer_name)})" if refusal.peer_name else ""
    often = f" ({times} times)" if times > 1 else ""
    return (f"refused {container} {'<-' if refusal.inbound else '->'} {peer}{name}: "
            f"{refusal.reason}: {refusal.meaning}{often}")


def at(address: Address, port: int) -> str:
    """Return an address and its port, as people write it; 0: without a port."""
    return at_port(address, port) if port else str(address)
