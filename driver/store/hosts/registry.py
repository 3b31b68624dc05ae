"""Registers this host in etcd under a lease, and feeds all registered hosts to a listener.

registration.py keeps each record alive.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from driver.errors import UnsupportedRecord
from driver.model import Fingerprint, Host, HostId, KnownHost
from driver.store.format import keys, records
from driver.store.hosts.registration import Registration, Return
from driver.store.kv.protocol import Change, Entry, KeyValue
from driver.work.logs import STANDING

TTL_S = 15  # a host that is silent for this long is taken for dead

log = logging.getLogger(__name__)


NO_FINGERPRINT = Fingerprint()


class EtcdHosts:
    """driver.services.ports.Hosts over etcd."""

    def __init__(self, kv: KeyValue, ttl_s: int = TTL_S, *, return_after_s: int = 0,
                 on_return: Return | None = None, fingerprint: Fingerprint = NO_FINGERPRINT,
                 known_before: bool = False) -> None:
        """return_after_s: see model.KnownHost; it applies to the hosts registered here.

        fingerprint: of this machine.  known_before: this host has been registered before.
        """
        self._kv = kv
        self._ttl_s = ttl_s
        self._return_after_s = return_after_s
        self._on_return = on_return or Return()
        self._fingerprint = fingerprint
        self._known_before = known_before
        self._registrations: dict[HostId, Registration] = {}
        # Set when this host is registered and its absence, if any, is settled.
        self.settled = threading.Event()

    def register(self, host: Host) -> None:
        """See ports.Hosts.  Returns immediately; without etcd it keeps retrying."""
        self.unregister(host.id)
        self._registrations[host.id] = Registration(
            self._kv, KnownHost(host, self._return_after_s), self._ttl_s, self._on_return,
            settled=self.settled, fingerprint=self._fingerprint, known_before=self._known_before)

    def unregister(self, host_id: HostId) -> None:
        """See ports.Hosts."""
        registration = self._registrations.pop(host_id, None)
        if registration is not None:
            registration.close()

    def refusal(self, wait_s: float) -> str:
        """Return why this host may not write: another machine is it, or not yet known; "": it may.

        wait_s: seconds to wait for the first attempt to register, if there has been none.
        """
        return next((each.refusal(wait_s) for each in self._registrations.values()), "")

    def joined(self) -> bool | None:
        """Tell whether a host registered here is new to etcd; None: it is not registered yet."""
        if not self.settled.is_set():
            return None
        return any(each.is_new for each in self._registrations.values())

    def describe(self) -> str:
        """Return the state of this host's registration in one line."""
        return next((each.describe() for each in self._registrations.values()), "not begun")

    def close(self) -> None:
        """End all registrations."""
        for host_id in list(self._registrations):
            self.unregister(host_id)


class HostFeed:
    """A FeedListener of keys.HOSTS: calls `listener` with all registered hosts at each change."""

    def __init__(self, listener: Callable[[dict[HostId, Host]], None]) -> None:
        self._listener = listener
        self._hosts: dict[HostId, Host] = {}

    def listed(self, entries: Sequence[Entry], revision: int) -> None:  # noqa: ARG002
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
            log.error("%s", error, extra=STANDING)
