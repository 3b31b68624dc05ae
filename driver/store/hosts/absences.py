"""Records hosts without a lease: who they are, since when, and what was taken from them.

Each step is one transaction: if several drivers want it, one of them does it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from driver.errors import UnsupportedRecord
from driver.model import Absence, HostId, KnownHost, Removal, Seen
from driver.store.format import keys, records
from driver.store.kv.protocol import LeasedKeyValue
from driver.store.kv.transaction import Transaction
from driver.work.logs import STANDING

log = logging.getLogger(__name__)


class EtcdAbsences:
    """driver.services.ports.Absences over etcd.  Thread-safe."""

    def __init__(self, kv: LeasedKeyValue) -> None:
        self._kv = kv

    def known(self) -> dict[HostId, KnownHost]:
        """See ports.Absences."""
        found = {}
        for entry in self._kv.range(keys.KNOWN).entries:
            try:
                found[keys.known_of(entry.key)] = records.decode(entry, records.known)
            except UnsupportedRecord as error:
                log.error("%s", error, extra=STANDING)
        return found

    def registered(self) -> set[HostId]:
        """See ports.Absences."""
        return {keys.host_of(entry.key)
                for entry in self._kv.range(keys.HOSTS, keys_only=True).entries}

    def get(self, host_id: HostId) -> Absence | None:
        """See ports.Absences."""
        entry = self._kv.get(keys.absent(host_id))
        if entry is None:
            return None
        return replace(records.decode(entry, records.absence), version=entry.mod_revision)

    def note(self, known: KnownHost, before: Absence | None, seen: Seen) -> bool:
        """See ports.Absences."""
        # etcd measures the time, with a lease: hosts' clocks may differ, and a lease lasts longer,
        # never shorter, when etcd is down or changes its leader.  The old lease ends by itself.
        counts = seen is Seen.GONE and known.return_after_s > 0
        lease = self._kv.lease(known.return_after_s) if counts else None
        host_id = known.host.id
        change = Transaction()
        change.as_read(keys.host(host_id), None)
        change.unchanged(keys.absent(host_id), before.version if before else 0)
        change.put(keys.absent(host_id), records.encode(records.absence_fields(
            Absence(host_id, lease.id if lease else 0, seen=seen))))
        noted = change.commit(self._kv)
        if not noted and lease is not None:
            lease.revoke()
        return noted

    def left_s(self, absence: Absence) -> int | None:
        """See ports.Absences."""
        return max(0, self._kv.lease_left_s(absence.clock)) if absence.clock else None

    def begin(self, host_id: HostId, before: Absence | None, removal: Removal, *,
              registered: bool = False) -> Absence | None:
        """See ports.Absences."""
        change = Transaction()
        key = keys.absent(host_id)
        change.put(key, records.encode(records.absence_fields(
            replace(before or Absence(host_id, 0), removal=removal, done=False))))
        change.unchanged(key, before.version if before else 0)
        if registered:
            change.delete(keys.host(host_id))
        else:
            change.as_read(keys.host(host_id), None)
        # After this, nothing that the host sent before can take effect.
        change.put(keys.fence(host_id), records.encode({}))
        return self.get(host_id) if change.commit(self._kv) else None

    def finish(self, absence: Absence) -> bool:
        """See ports.Absences."""
        change = Transaction()
        key = keys.absent(absence.host)
        # The absence stays, for a host that was cut off for this long as well: nothing else
        # tells a forgotten host from an etcd that has lost its data.
        change.put(key, records.encode(records.absence_fields(replace(absence, done=True))))
        if absence.removal is Removal.EVERYTHING:
            change.delete(keys.known(absence.host))
        change.unchanged(key, absence.version)
        return change.commit(self._kv)
