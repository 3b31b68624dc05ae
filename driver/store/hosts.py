"""Owns the registry of live hosts in etcd: this host's record under a lease, and the others' feed.

It must not know what hosts are good for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from driver.errors import SlimError, UnsupportedRecord
from driver.model import Host, HostId
from driver.store import keys, records
from driver.store.feed import Feed
from driver.store.kv import Change, Entry, KeyValue, Lease, Put

TTL_S = 15  # a host that is gone for so long is taken for dead
RETRY_S = 1.0

log = logging.getLogger(__name__)


class EtcdHosts:
    """driver.services.ports.Hosts over etcd."""

    def __init__(self, kv: KeyValue, ttl_s: int = TTL_S) -> None:
        self._kv = kv
        self._ttl_s = ttl_s
        self._registrations: dict[HostId, _Registration] = {}
        self._feeds: list[Feed] = []

    def register(self, host: Host) -> None:
        """See ports.Hosts.  Returns at once: without etcd it goes on trying."""
        self.unregister(host.id)
        self._registrations[host.id] = _Registration(self._kv, host, self._ttl_s)

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

    def __init__(self, kv: KeyValue, host: Host, ttl_s: int) -> None:
        self._kv = kv
        self._host = host
        self._ttl_s = ttl_s
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
        lease = self._kv.lease(self._ttl_s)
        self._kv.commit([], [Put(keys.host(self._host.id),
                                 records.encode(records.host_fields(self._host)), lease.id)])
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
