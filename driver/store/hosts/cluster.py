"""Tells which cluster an etcd belongs to, and blocks every call to another cluster's etcd.

The cluster's name is a key that the first driver writes; each host keeps a copy, so that it can
tell an etcd that has lost its data from one that is not its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from driver.errors import StoreUnavailable, UnsupportedRecord
from driver.model import Cluster
from driver.store.format import keys, records
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import (
    Change,
    Compare,
    Entry,
    Holds,
    Lease,
    Listing,
    Moment,
    Op,
    Put,
    Stream,
    Unchanged,
    WholeKeyValue,
)
from driver.work.logs import STANDING

AGAIN_S: Final = 1.0  # between checks of an etcd that is refused, or whose writes are
ATTEMPTS: Final = 4  # concurrent writers of the key all write the same, or read the first writer's

log = logging.getLogger(__name__)


class Membership(Protocol):
    """What this host has stored about its cluster."""

    def get(self) -> Cluster | None: ...

    def put(self, cluster: Cluster) -> None: ...


class ClusterKeyValue(DelegatingKeyValue):
    """A driver.store.kv.protocol.KeyValue that works only on this cluster's etcd.  Thread-safe.

    Each write is conditional on that.  Reads rely on `identity`, which tells one etcd from
    another: after it has changed, the cluster is checked before any call is answered.
    All calls also raise StoreUnavailable, which says what is wrong and what to do.
    """

    def __init__(self, kv: WholeKeyValue, membership: Membership, fresh: Callable[[], Cluster], *,
                 identity: Callable[[], int] = lambda: 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """fresh: returns the name of a cluster that begins here.  clock: seconds, monotonic.

        identity: returns the own cluster id of the etcd that answered last.
        """
        super().__init__(kv)
        self._whole = kv
        self._membership = membership
        self._fresh = fresh
        self._identity = identity
        self._clock = clock
        self._lock = threading.Lock()
        self._value = b""  # of the key, when it was last this cluster's
        self._seen = 0  # identity at that time
        self._looked_s = -1e9
        self.refusal = ""  # why this etcd is not used
        self.lost_data = False  # etcd lacked the key, which this host had seen there

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        self._admit()
        found = self._kv.get(key)
        self._admit()
        return found

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """See KeyValue."""
        self._admit()
        found = self._kv.range(prefix, start=start, stop=stop, limit=limit, keys_only=keys_only)
        self._admit()
        return found

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """See KeyValue."""
        self._admit()
        found = self._kv.count(prefix, start=start, stop=stop)
        self._admit()
        return found

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue.  Also 0 if the cluster's key was rewritten meanwhile."""
        self._admit()
        done = self._kv.commit([*compares, Holds(keys.CLUSTER, self._value)], ops)
        if not done and self._clock() - self._looked_s >= AGAIN_S:
            self._look()
        return done

    def stream(self, key: str) -> Stream:
        """See WatchedKeyValue."""
        self._admit()
        return self._whole.stream(key)

    def now(self, key: str) -> Moment:
        """See WatchedKeyValue."""
        self._admit()
        return self._whole.now(key)

    def remembers(self, change: Change) -> bool:
        """See WatchedKeyValue."""
        self._admit()
        return self._whole.remembers(change)

    def keeps(self, key: str, revision: int) -> bool:
        """See WatchedKeyValue."""
        self._admit()
        return self._whole.keeps(key, revision)

    def lease(self, ttl_s: int) -> Lease:
        """See KeyValue."""
        self._admit()
        return self._kv.lease(ttl_s)

    def keep_alive(self, lease_id: int) -> bool:
        """See LeasedKeyValue."""
        self._admit()
        return self._whole.keep_alive(lease_id)

    def lease_left_s(self, lease_id: int) -> int:
        """See LeasedKeyValue."""
        self._admit()
        return self._whole.lease_left_s(lease_id)

    def _admit(self) -> None:
        if self._value and self._identity() == self._seen and not self.refusal:
            return
        if self.refusal and self._clock() - self._looked_s < AGAIN_S:
            raise StoreUnavailable(self.refusal)
        self._look()

    def _look(self) -> None:
        with self._lock:
            before, self._looked_s = self.refusal, self._clock()
            self._value, self.refusal = self._verified()
            self._seen = self._identity()
        if self.refusal:
            if self.refusal != before:
                log.error("%s", self.refusal)
            raise StoreUnavailable(self.refusal)
        if before:
            log.warning("etcd is this host's cluster's again")

    def _verified(self) -> tuple[bytes, str]:
        """Return the key's value and "", or b"" and why it is not this cluster's."""
        for _ in range(ATTEMPTS):
            mine, entry = self._membership.get(), self._kv.get(keys.CLUSTER)
            if entry is not None:
                try:
                    theirs = records.decode(entry, records.cluster)
                except UnsupportedRecord as error:
                    if self._value and self._identity() == self._seen:
                        log.error("%s; it is the same etcd as before", error, extra=STANDING)
                        return entry.value, ""
                    return b"", f"whose etcd this is cannot be told: {error}"
                if mine is None:
                    self._membership.put(theirs)
                elif mine.id != theirs.id:
                    return b"", (
                        f"this etcd belongs to cluster {theirs}, this host to cluster {mine}: is "
                        "--etcd right?  If the host shall move there, type `slim adopt-cluster`; "
                        "until then nothing is read there or written, and what runs goes on")
                return entry.value, ""
            cluster = mine or self._fresh()
            if mine is not None:
                self.lost_data = True
                log.warning("etcd does not know cluster %s, which this host belongs to: has it "
                            "lost its data, or is it a new one?  It becomes that cluster's", mine)
            value = records.encode(records.cluster_fields(cluster))
            if self._kv.commit([Unchanged(keys.CLUSTER, 0)], [Put(keys.CLUSTER, value)]):
                self._membership.put(cluster)
                return value, ""
        raise StoreUnavailable(f"{keys.CLUSTER} in etcd has too many concurrent changes")
