"""Judges whether a host without a lease is gone, or only its driver or its connection to etcd.

A host that answers is alive, whatever etcd says: its containers keep talking
(docs/decisions/0004).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from driver.errors import Conflict, LinkError, SlimError, UnsupportedRecord
from driver.model import Absence, Host, HostAddress, HostId, KnownHost, Removal, Seen
from driver.services.ports import Absences, HostSeen, Presence, Prober

log = logging.getLogger(__name__)

INTERVAL_S: Final = 3.0  # between two runs
WAIT_S: Final = 1.0  # for answers
MISSES: Final = 3  # in a row: three lost packets are no accident
RECORDS_S: Final = 30.0  # between reads of etcd; less than the shortest return_after_s (60)
CALIBRATE_S: Final = 60.0  # between probes of a host that has a lease, until it answers once


class _Place(NamedTuple):
    """A host at an address: the host may move, and another one may take its place."""

    host: HostId
    underlay: HostAddress


def _place(host: Host) -> _Place:
    return _Place(host.id, host.underlay)


@dataclass
class _Watched:
    """What is known of a host without a lease."""

    misses: int = 0  # in a row
    said_absent: bool = False  # since its last answer, the network has said that nobody is there
    gone: bool = False
    answered: bool = False  # the last probe

    def seen(self) -> Seen | None:
        """Return the verdict; None: it is too early to say."""
        if self.answered:
            return Seen.ALIVE
        if self.gone:
            return Seen.GONE
        return Seen.SILENCE if self.misses >= MISSES else None


class HostWatch:
    """Watches the hosts without a lease.  `run` is called at intervals, from one thread."""

    def __init__(self, *, me: HostId, absences: Absences, prober: Prober,
                 refuse: Callable[[Collection[HostAddress]], None],
                 remove: Callable[[Absence], None],
                 reaches: Callable[[HostAddress], bool] = lambda _underlay: True,
                 apart: Callable[[Callable[[], None]], None] = lambda act: act(),
                 clock: Callable[[], float] = time.monotonic) -> None:
        """refuse: see ports.Datapath.refuse_hosts.

        reaches: whether another host's address is of this host's family; hosts of the other one are
        left to those that can judge them.
        remove: removes what a host's absence names.  apart: calls in another thread, because
        removing may take longer than a minute, and a refused host must be probed once a minute.
        clock: seconds, monotonic.
        """
        self._me = me
        self._absences = absences
        self._prober = prober
        self._refuse = refuse
        self._remove = remove
        self._reaches = reaches
        self._apart = apart
        self._clock = clock
        self._lock = threading.Lock()  # of the next two
        self._live: dict[HostId, Host] | None = None  # None: not heard of yet
        # None: what an earlier driver has left there is not known.
        self._refused: frozenset[HostAddress] | None = None
        self._known: dict[HostId, KnownHost] = {}
        self._watched: dict[HostId, _Watched] = {}
        self._absent: dict[HostId, KnownHost] = {}  # whose records are to be checked
        # Hosts that answered at least once at that address: their silence means something.
        self._answered: set[_Place] = set()
        self._records_s = self._calibrate_s = -1e9
        self._unreadable: set[str] = set()  # whose records are unreadable; logged once
        self._seen: frozenset[HostId] = frozenset()

    def hosts_changed(self, live: dict[HostId, Host]) -> None:
        """Take all hosts that have a lease, at first and at each change.  Error: DatapathError."""
        with self._lock:
            self._live = live
            # A host that comes back can be called again at once.
            self._refuse_only(self._refused or frozenset())

    def run(self) -> None:
        """Probe once and act.  Errors: LinkError, DatapathError; trouble with etcd is logged."""
        with self._lock:
            live = self._live
        if live is None:
            return
        look = self._due_at_records(live)
        if look:
            self._try("who is absent", self._read_known)
        absent = {host_id: known for host_id, known in self._known.items()
                  if host_id not in live and host_id != self._me
                  and self._reaches(known.host.underlay)}
        self._watched = {host_id: self._watched.get(host_id, _Watched()) for host_id in absent}
        self._ask(live, absent)
        with self._lock:
            self._refuse_only(frozenset(known.host.underlay for host_id, known in absent.items()
                                        if self._watched[host_id].gone))
        if look:
            self._absent = absent
            self._apart(self._keep_records)

    def counts(self) -> dict[str, int]:
        """Count the hosts by state: registered, absent and gone; this host is among the first."""
        watched = list(self._watched.values())
        with self._lock:
            live = len(self._live or {})
        gone = sum(found.gone for found in watched)
        return {"registered": live, "absent": len(watched) - gone, "gone": gone}

    def hosts(self) -> list[HostSeen]:
        """Return all hosts that are registered, or are known from before."""
        with self._lock:
            live = dict(self._live or {})
        watched = self._watched
        return [HostSeen(host, registered=True, gone=False) for host in live.values()] + [
            HostSeen(known.host, registered=False, gone=(
                host_id in watched and watched[host_id].gone))
            for host_id, known in list(self._known.items()) if host_id not in live]

    def describe(self) -> str:
        """Describe the other hosts' states in a few words."""
        return ", ".join(f"{count} {state}" for state, count in self.counts().items())

    def _due_at_records(self, live: dict[HostId, Host]) -> bool:
        now_s, seen = self._clock(), frozenset(live)
        due = now_s - self._records_s >= RECORDS_S or seen != self._seen
        if due:
            self._records_s, self._seen = now_s, seen
        return due

    def _read_known(self) -> None:
        self._known = self._absences.known()

    def _ask(self, live: dict[HostId, Host], absent: dict[HostId, KnownHost]) -> None:
        asked = {_place(known.host) for known in absent.values()}
        alive = {_place(host) for host in live.values() if self._reaches(host.underlay)}
        if self._clock() - self._calibrate_s >= CALIBRATE_S:
            self._calibrate_s = self._clock()
            asked |= {place for place in alive if place.host != self._me} - self._answered
        # Forget the places that are no longer probed.
        self._answered &= asked | alive
        try:
            answers = self._prober.probe({place.underlay for place in asked}, WAIT_S)
        except LinkError as error:
            log.error("%s", error)
            return
        in_use = {place.underlay for place in alive}
        # Otherwise another host answers there by now, such as a machine that was set up anew.
        answered = {place for place in asked if answers[place.underlay] is Presence.ANSWERED
                    and (place in alive or place.underlay not in in_use)}
        self._answered |= answered
        for host_id, known in absent.items():
            found, place = answers[known.host.underlay], _place(known.host)
            if found is Presence.ANSWERED and place not in answered:
                found = Presence.SILENT
            self._judge(known.host, self._watched[host_id], found)

    def _judge(self, host: Host, watched: _Watched, found: Presence) -> None:
        if found is Presence.ANSWERED:
            if watched.gone:
                log.warning("host %s (%s) is back", host.name, host.underlay)
            if not watched.gone and not watched.answered:
                log.info("host %s (%s) has no lease, but gives a sign of life: its driver is "
                         "stopped, or does not reach etcd", host.name, host.underlay)
            watched.misses, watched.said_absent, watched.gone = 0, False, False
            watched.answered = True
            return
        watched.answered = False
        watched.misses += 1
        watched.said_absent |= found is Presence.ABSENT
        certain = watched.said_absent or _place(host) in self._answered
        if watched.misses == MISSES and not certain:
            log.warning("host %s (%s) has no lease and has never answered this host: that it is "
                        "silent proves nothing; is there a firewall?  It is not removed by "
                        "itself (`slim forget-host` does it)", host.name, host.underlay)
        if watched.misses >= MISSES and certain and not watched.gone:
            watched.gone = True
            log.warning("host %s (%s) has no lease and gives no sign of life: connections to "
                        "its containers are refused until it does", host.name, host.underlay)

    def _refuse_only(self, gone: frozenset[HostAddress]) -> None:
        # A machine may have a new id, or another machine may have the old one's address.
        gone -= {host.underlay for host in (self._live or {}).values()}
        # Also if nothing has changed: a refusal lasts only a minute.
        if gone or self._refused is None or self._refused:
            self._refuse(gone)
        self._refused = gone

    def _keep_records(self) -> None:
        watched = self._watched
        for host_id, known in self._absent.items():
            if host_id in watched:
                self._try(f"host {known.host.name}", partial(
                    self._keep_record, known, watched[host_id]))

    def _keep_record(self, known: KnownHost, watched: _Watched) -> None:
        """Put on record what was seen of a host; remove what it had if it was gone for too long."""
        absence, seen = self._absences.get(known.host.id), watched.seen()
        if seen is None:
            return
        if absence is None:
            if seen is not Seen.ALIVE:
                self._absences.note(known, None, seen)
        elif absence.removal is not Removal.NONE:
            if seen is not Seen.ALIVE and not absence.done:
                self._take(known.host, absence)
        elif seen is Seen.SILENCE and absence.seen is not Seen.GONE:
            pass  # what others have seen says more than silence
        elif seen is not Seen.SILENCE and seen is not absence.seen:
            self._absences.note(known, absence, seen)
        elif absence.seen is Seen.GONE and self._absences.left_s(absence) == 0:
            begun = self._absences.begin(known.host.id, absence, Removal.ADDRESSES)
            if begun is not None:  # else it is back, or another driver was faster
                self._take(known.host, begun)

    def _take(self, host: Host, absence: Absence) -> None:
        log.warning("host %s (%s) was gone for too long: its addresses are free for others",
                    host.name, host.underlay)
        self._remove(absence)

    def _try(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Conflict as error:
            log.info("%s: %s", what, error)  # another driver continues with it
        except UnsupportedRecord as error:
            if what not in self._unreadable:
                log.warning("%s: %s; the host keeps all it has until that is put right, or "
                            "deleted", what, error)
            self._unreadable.add(what)
            return
        except SlimError as error:
            log.debug("%s: %s", what, error)  # without etcd, nothing is recorded
            return
        self._unreadable.discard(what)
