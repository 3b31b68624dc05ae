"""Owns the registry of live hosts in etcd: this host's record under a lease, and the others' feed.

It must not know what hosts are good for, nor what is removed of one that was away for too long.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from driver.errors import SlimError, StoreUnavailable, UnsupportedRecord
from driver.model import Absence, Host, HostId, KnownHost, Removal
from driver.store import keys, records
from driver.store.feed import Feed
from driver.store.kv import Change, Entry, KeyValue, Lease, Put, Transaction

TTL_S = 15  # a host that is gone for so long is taken for dead
RETRY_S = 1.0
ATTEMPTS = 16  # of one registration against peers that note this host's absence

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Return:
    """What a host does that finds out, while it registers, that others removed its records.

    Both are called from the registration's thread; the first one's errors (SlimError) put the
    registration off.
    """

    # Before: completes the removal that this absence names.  Nobody goes on with it afterwards.
    complete: Callable[[Absence], None] = lambda _absence: None
    # After: has whatever is in memory and in the kernel brought in line.  Returns at once.
    forgotten: Callable[[], None] = lambda: None


class EtcdHosts:
    """driver.services.ports.Hosts over etcd."""

    def __init__(self, kv: KeyValue, ttl_s: int = TTL_S, *, return_after_s: int = 0,
                 on_return: Return | None = None) -> None:
        """return_after_s: see model.KnownHost, of the hosts that are registered here."""
        self._kv = kv
        self._ttl_s = ttl_s
        self._return_after_s = return_after_s
        self._on_return = on_return or Return()
        self._registrations: dict[HostId, _Registration] = {}
        self._feeds: list[Feed] = []

    def register(self, host: Host) -> None:
        """See ports.Hosts.  Returns at once: without etcd it goes on trying."""
        self.unregister(host.id)
        self._registrations[host.id] = _Registration(
            self._kv, KnownHost(host, self._return_after_s), self._ttl_s, self._on_return)

    def unregister(self, host_id: HostId) -> None:
        """See ports.Hosts."""
        registration = self._registrations.pop(host_id, None)
        if registration is not None:
            registration.close()

    def follow(self, listener: Callable[[dict[HostId, Host]], None]) -> None:
        """See ports.Hosts."""
        self._feeds.append(Feed(self._kv, keys.HOSTS, _HostListener(listener), "slim-hosts"))

    def close(self) -> None:
        """End all feeds and registrations."""
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()
        for host_id in list(self._registrations):
            self.unregister(host_id)


class _Registration:
    """The thread that keeps one host's record alive, and writes it again if it was lost."""

    def __init__(self, kv: KeyValue, known: KnownHost, ttl_s: int, on_return: Return) -> None:
        self._kv = kv
        self._known = known
        self._host = known.host
        self._ttl_s = ttl_s
        self._on_return = on_return
        self._entered = False  # by this process, at least once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slim-lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        lease: Lease | None = None
        troubled = False
        while not self._stop.is_set():
            wait_s = self._ttl_s / 3
            try:
                lease = self._renewed(lease)
                if troubled:
                    log.info("host %s is registered again", self._host.name)
                troubled = False
            except SlimError as error:
                if not troubled:
                    log.warning("host %s cannot be registered, trying on: %s",
                                self._host.name, error)
                troubled, wait_s = True, RETRY_S
            self._stop.wait(wait_s)
        if lease is not None:
            try:
                lease.revoke()
            except SlimError as error:
                log.warning("host %s goes when its lease ends: %s", self._host.name, error)

    def _renewed(self, lease: Lease | None) -> Lease:
        # The record is checked too: somebody may have removed it (`forget-host`).
        if (lease is not None and lease.keep_alive()
                and self._kv.get(keys.host(self._host.id)) is not None):
            return lease
        for _ in range(ATTEMPTS):
            entered = self._enter()
            if entered is not None:
                return entered
        raise StoreUnavailable("its absence is noted by too many at once")

    def _enter(self) -> Lease | None:
        """Write the records; None: something changed meanwhile."""
        host_id = self._host.id
        absent = self._kv.get(keys.absent(host_id))
        known = self._kv.get(keys.known(host_id))
        if known is not None:
            records.decode(known, records.known)  # a newer driver's is left alone
        if self._entered and known is None and absent is None:
            # Nobody removes it without a trace.  What runs is left as it is.
            log.error("etcd does not know this host any more: has it lost its data?")
        forgotten = False
        if absent is not None:
            absence = replace(records.decode(absent, records.absence),
                              version=absent.mod_revision)
            if absence.removal is not Removal.NONE:
                forgotten = True
                if not absence.done:
                    self._on_return.complete(absence)
        lease = self._kv.lease(self._ttl_s)
        change = Transaction()
        change.as_read(keys.absent(host_id), absent)
        change.as_read(keys.known(host_id), known)
        change.ops.append(Put(keys.host(host_id),
                              records.encode(records.host_fields(self._host)), lease.id))
        change.put(keys.known(host_id), records.encode(records.known_fields(self._known)))
        change.delete(keys.absent(host_id))
        if not change.commit(self._kv):
            lease.revoke()
            return None
        self._entered = True
        if forgotten:
            log.warning("this host was away for too long, or `slim forget-host` was told its name: "
                        "its addresses, at least, were free for others")
            self._on_return.forgotten()
        return lease


class _HostListener:
    def __init__(self, listener: Callable[[dict[HostId, Host]], None]) -> None:
        self._listener = listener
        self._hosts: dict[HostId, Host] = {}

    def listed(self, entries: Sequence[Entry]) -> None:
        self._hosts = {}
        for entry in entries:
            self._enter(entry)
        self._listener(dict(self._hosts))

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.value is None:
                self._hosts.pop(keys.host_of(change.key), None)
            else:
                self._enter(Entry(change.key, change.value, change.mod_revision))
        self._listener(dict(self._hosts))

    def _enter(self, entry: Entry) -> None:
        try:
            self._hosts[keys.host_of(entry.key)] = records.decode(entry, records.host)
        except UnsupportedRecord as error:
            self._hosts.pop(keys.host_of(entry.key), None)
            log.error("%s", error)
