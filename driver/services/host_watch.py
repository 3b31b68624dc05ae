"""Owns judging hosts without a lease: gone, or only their driver or their way to etcd is.

It must not know how a sign of life is asked for, nor what connect() does with the answer.
Whoever answers is alive, whatever etcd says: its containers talk on (docs/decisions/0004).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from driver.errors import Conflict, LinkError, SlimError
from driver.model import Absence, Host, HostId, KnownHost, Removal
from driver.services.ports import Absences, Presence, Prober

log = logging.getLogger(__name__)

INTERVAL_S: Final = 3.0  # between two runs
WAIT_S: Final = 1.0  # for answers
MISSES: Final = 3  # in a row: three lost packets are no accident any more
RECORDS_S: Final = 30.0  # between looks at etcd; less than the shortest return_after_s (60)
CALIBRATE_S: Final = 60.0  # between questions to hosts that have a lease, until one is answered


@dataclass
class _Watched:
    """What is known of a host without a lease."""

    misses: int = 0  # in a row
    said_absent: bool = False  # the network has said that nobody is there, since it answered last
    gone: bool = False


class HostWatch:
    """`run` is called at intervals, from one thread."""

    def __init__(self, *, me: HostId, absences: Absences, prober: Prober,
                 refuse: Callable[[Collection[IPv4Address]], None],
                 remove: Callable[[Absence], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """refuse: see ports.Datapath.refuse_hosts.

        remove: removes what a host's absence names.  clock: seconds, monotonic.
        """
        self._me = me
        self._absences = absences
        self._prober = prober
        self._refuse = refuse
        self._remove = remove
        self._clock = clock
        self._lock = threading.Lock()  # of the next two
        self._live: dict[HostId, Host] | None = None  # None: not heard of yet
        # None: what a driver before this one has left there is not known.
        self._refused: frozenset[IPv4Address] | None = None
        self._known: dict[HostId, KnownHost] = {}
        self._watched: dict[HostId, _Watched] = {}
        self._answered: set[IPv4Address] = set()  # at least once: silence means something
        self._records_s = self._calibrate_s = -1e9
        self._seen: frozenset[HostId] = frozenset()

    def hosts_changed(self, live: dict[HostId, Host]) -> None:
        """Take the hosts that have a lease; see ports.Hosts.follow.  Error: DatapathError."""
        with self._lock:
            self._live = live
            # Who comes back is called again at once.
            self._refuse_only(self._refused or frozenset())

    def run(self) -> None:
        """Ask once, and act.  Errors: LinkError, DatapathError; trouble with etcd is logged."""
        with self._lock:
            live = self._live
        if live is None:
            return
        look = self._due_at_records(live)
        if look:
            self._try("who is absent", self._read_known)
        absent = {host_id: known for host_id, known in self._known.items()
                  if host_id not in live and host_id != self._me}
        self._watched = {host_id: self._watched.get(host_id, _Watched()) for host_id in absent}
        self._ask(live, absent)
        with self._lock:
            self._refuse_only(frozenset(known.host.underlay for host_id, known in absent.items()
                                        if self._watched[host_id].gone))
        if look:
            for host_id, known in absent.items():
                self._try(f"host {known.host.name}", lambda h=host_id, k=known:  # type: ignore[misc]
                          self._keep_record(k, self._watched[h]))

    def describe(self) -> str:
        """How the other hosts are, in a few words."""
        watched = list(self._watched.values())
        with self._lock:
            live = len(self._live or {})
        gone = sum(found.gone for found in watched)
        return f"{live} registered, {len(watched) - gone} absent, {gone} gone"

    def _due_at_records(self, live: dict[HostId, Host]) -> bool:
        now_s, seen = self._clock(), frozenset(live)
        due = now_s - self._records_s >= RECORDS_S or seen != self._seen
        if due:
            self._records_s, self._seen = now_s, seen
        return due

    def _read_known(self) -> None:
        self._known = self._absences.known()

    def _ask(self, live: dict[HostId, Host], absent: dict[HostId, KnownHost]) -> None:
        asked = {known.host.underlay for known in absent.values()}
        if self._clock() - self._calibrate_s >= CALIBRATE_S:
            self._calibrate_s = self._clock()
            asked |= {host.underlay for host_id, host in live.items()
                      if host_id != self._me} - self._answered
        # What nobody asks for any more is forgotten: an address may become another machine's.
        self._answered &= asked | {host.underlay for host in live.values()}
        try:
            answers = self._prober.probe(asked, WAIT_S)
        except LinkError as error:
            log.error("%s", error)
            return
        self._answered |= {host for host, found in answers.items() if found is Presence.ANSWERED}
        in_use = {host.underlay for host in live.values()}
        for host_id, known in absent.items():
            underlay = known.host.underlay
            # Who answers there is another one by now: a machine that was set up anew, say.
            found = Presence.SILENT if underlay in in_use else answers[underlay]
            self._judge(known.host, self._watched[host_id], found)

    def _judge(self, host: Host, watched: _Watched, found: Presence) -> None:
        if found is Presence.ANSWERED:
            if watched.gone:
                log.warning("host %s (%s) is back", host.name, host.underlay)
            watched.misses, watched.said_absent, watched.gone = 0, False, False
            return
        watched.misses += 1
        watched.said_absent |= found is Presence.ABSENT
        certain = watched.said_absent or host.underlay in self._answered
        if watched.misses >= MISSES and certain and not watched.gone:
            watched.gone = True
            log.warning("host %s (%s) has no lease and gives no sign of life: connections to "
                        "its containers are refused until it does", host.name, host.underlay)

    def _refuse_only(self, gone: frozenset[IPv4Address]) -> None:
        # A machine may have a new id, or another one the old one's address.
        gone -= {host.underlay for host in (self._live or {}).values()}
        # Also when nothing has changed: it lasts for a minute only.
        if gone or self._refused is None or self._refused:
            self._refuse(gone)
        self._refused = gone

    def _keep_record(self, known: KnownHost, watched: _Watched) -> None:
        """Count the time that a host is away, and take what it had when that is over."""
        absence = self._absences.get(known.host.id)
        if absence is None:
            if watched.misses:
                self._absences.note(known)
            return
        if not watched.misses:
            self._absences.put_off(absence)
            return
        if watched.misses < MISSES or absence.done:
            return
        if absence.removal is Removal.NONE:
            if self._absences.left_s(absence) != 0:
                return
            begun = self._absences.begin(known.host.id, absence, Removal.ADDRESSES)
            if begun is None:
                return  # it is back, or another driver was faster
            absence = begun
        log.warning("host %s (%s) was away for too long: its addresses are free for others",
                    known.host.name, known.host.underlay)
        self._remove(absence)

    def _try(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Conflict as error:
            log.info("%s: %s", what, error)  # another driver goes on with it
        except SlimError as error:
            log.debug("%s: %s", what, error)  # without etcd nothing is recorded
