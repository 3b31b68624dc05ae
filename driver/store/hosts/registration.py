"""Keeps one host registered: its record under a lease, written again when it was lost.

One machine is registered under a host's id, and one host at an underlay address; the second one is
refused as long as the first one is alive.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from driver.errors import SlimError, StoreUnavailable, UnsupportedRecord
from driver.model import Absence, Fingerprint, KnownHost, Removal
from driver.store.format import keys, records
from driver.store.hosts.claims import NotAdmittedError, registered_as, registered_at
from driver.store.kv.protocol import Entry, KeyValue, Lease, Put
from driver.store.kv.transaction import Transaction
from driver.work import deadline
from driver.work.logs import STANDING

RETRY_S: Final = 1.0
ATTEMPTS: Final = 16  # of one registration, against peers that note this host's absence

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Return:
    """What a host does if it finds, while it registers, that others removed its records.

    Both are called from the registration's thread; if the first raises SlimError, the
    registration is postponed.
    """

    # Before registering: completes what a person ordered with this absence (Removal.EVERYTHING).
    # A removal of addresses just stops here: without the absence nobody continues it, what is
    # left stays on record, and what is missing is entered again.
    complete: Callable[[Absence], None] = lambda _absence: None
    # After registering: brings memory and kernel into line with etcd.  Returns immediately.
    forgotten: Callable[[Removal], None] = lambda _removal: None
    # etcd has lost what it knew of this host.  Returns what that was, as text for people.
    unknown: Callable[[], str] = lambda: "what it had"


class Registration:
    """Thread that keeps one host's record alive."""

    def __init__(self, kv: KeyValue, known: KnownHost, ttl_s: int, on_return: Return, *,
                 settled: threading.Event, fingerprint: Fingerprint, known_before: bool) -> None:
        """settled: set once the host is registered.  See EtcdHosts for the other arguments."""
        self._kv = kv
        self._known = known
        self._host = known.host
        self._ttl_s = ttl_s
        self._on_return = on_return
        self._settled = settled
        self._fingerprint = fingerprint
        self._entered = known_before
        self.is_new = False  # etcd did not know this host before
        self._tried = threading.Event()
        self._error: SlimError | None = None  # of the last attempt
        self._intruder = ""  # who overwrote this host's record
        self._lost = ""  # what etcd has lost of this host's
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slim-lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the lease."""
        self._stop.set()
        self._thread.join(10)

    def refusal(self, wait_s: float) -> str:
        """See EtcdHosts.refusal."""
        error = self._error
        if isinstance(error, NotAdmittedError):
            return f"this host is not admitted: {error}"
        if self._settled.is_set():
            return ""
        self._tried.wait(deadline.remaining_s(wait_s))
        if self._settled.is_set():
            return ""
        return str(self._error or "this host is not registered in etcd yet, try again")

    def describe(self) -> str:
        """See EtcdHosts.describe."""
        if self._error is not None:
            return f"refused: {self._error}" if isinstance(self._error, NotAdmittedError) else (
                f"waits: {self._error}")
        if not self._settled.is_set():
            return "under way"
        return "; ".join(filter(None, ("registered", self._intruder, self._lost)))

    def _run(self) -> None:
        lease: Lease | None = None
        while not self._stop.is_set():
            wait_s = self._ttl_s / 3
            try:
                lease = self._renewed(lease)
                if self._error is not None:
                    log.info("host %s is registered again", self._host.name)
                self._error = None
            except SlimError as error:
                if str(error) != str(self._error or ""):
                    level = (logging.ERROR if isinstance(error, NotAdmittedError)
                             else logging.WARNING)
                    log.log(level, "host %s cannot be registered, retrying: %s",
                            self._host.name, error)
                self._error, wait_s = error, RETRY_S
            self._tried.set()
            self._stop.wait(wait_s)
        if lease is not None:
            try:
                lease.revoke()
            except SlimError as error:
                log.warning("host %s goes when its lease ends: %s", self._host.name, error)

    def _renewed(self, lease: Lease | None) -> Lease:
        # Check the records too: somebody may have removed them (`forget-host`), or etcd may have
        # lost one.
        if lease is not None and lease.keep_alive():
            entry = self._kv.get(keys.host(self._host.id))
            if entry is not None:
                self._notice(entry)
                if self._kv.get(keys.underlay(self._host.underlay)) is not None:
                    return lease
        for _ in range(ATTEMPTS):
            entered = self._enter()
            if entered is not None:
                return entered
        raise StoreUnavailable("too many concurrent notes of its absence")

    def _notice(self, entry: Entry) -> None:
        """Log if another machine, such as one with an older driver, registered as this host."""
        found = registered_as(self._host, self._fingerprint, entry)
        if found and not self._intruder:
            log.error("%s.  Both write the same records: containers of one lose their names to the "
                      "other", found)
        self._intruder = found

    def _enter(self) -> Lease | None:
        """Write the records; None: something changed meanwhile.  Error: NotAdmittedError."""
        host, host_id = self._host, self._host.id
        here = self._kv.get(keys.host(host_id))
        there = self._kv.get(keys.underlay(host.underlay))
        if refused := (registered_as(host, self._fingerprint, here) or registered_at(host, there)):
            raise NotAdmittedError(refused)
        absent = self._kv.get(keys.absent(host_id))
        known = self._kv.get(keys.known(host_id))
        if self._entered and known is None and absent is None:
            self._say_lost()
        absence = Absence(host_id, 0)
        if absent is not None:
            absence = replace(records.decode(absent, records.absence),
                              version=absent.mod_revision)
            if absence.removal is Removal.EVERYTHING:
                self._on_return.complete(absence)
        lease = self._kv.lease(self._ttl_s)
        change = Transaction()
        for key, entry in ((keys.host(host_id), here), (keys.underlay(host.underlay), there),
                           (keys.absent(host_id), absent), (keys.known(host_id), known)):
            change.as_read(key, entry)
        change.ops += [
            Put(keys.host(host_id), records.encode(
                records.registered_fields(host, self._fingerprint)), lease.id),
            Put(keys.underlay(host.underlay), records.encode(
                records.underlay_fields(host)), lease.id)]
        if self._is_ours(known):
            change.put(keys.known(host_id), records.encode(records.known_fields(self._known)))
        change.delete(keys.absent(host_id))
        if not change.commit(self._kv):
            lease.revoke()
            return None
        self._entered, self._intruder = True, ""
        self.is_new = self.is_new or known is None
        if absence.removal is not Removal.NONE:
            log.warning("this host was away for too long, or `slim forget-host` was told its name: "
                        "its addresses, at least, were free for others")
            self._on_return.forgotten(absence.removal)
        self._settled.set()
        return lease

    def _say_lost(self) -> None:
        """Report lost data: nobody removes `known` without a trace.  What runs is left as it is."""
        if not self._lost:
            try:
                had = self._on_return.unknown()
            except SlimError as error:
                had = f"what cannot be counted ({error})"
            self._lost = f"etcd did not know this host any more: it had {had}"
            log.error("%s; has etcd lost its data?", self._lost)

    @staticmethod
    def _is_ours(known: Entry | None) -> bool:
        """Tell whether the record may be written: one left by a newer driver is left alone."""
        try:
            return known is None or bool(records.decode(known, records.known))
        except UnsupportedRecord as error:
            log.error("%s", error, extra=STANDING)
            return False
