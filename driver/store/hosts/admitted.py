"""Blocks every call to etcd in this host's name while another machine holds that name.

A refused call raises StoreUnavailable with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from driver.errors import StoreUnavailable
from driver.store.kv.delegate import DelegatingKeyValue
from driver.store.kv.protocol import Compare, Entry, KeyValue, Lease, Listing, Op


class AdmittedKeyValue(DelegatingKeyValue):
    """A driver.store.kv.protocol.KeyValue that raises StoreUnavailable while there is a reason."""

    def __init__(self, kv: KeyValue, refusal: Callable[[], str]) -> None:
        """Refusal: returns the reason, "": none.  It may block for a while to find out."""
        super().__init__(kv)
        self._refusal = refusal

    def get(self, key: str) -> Entry | None:
        """See KeyValue."""
        self._admit()
        return self._kv.get(key)

    def range(self, prefix: str, *, start: str = "", stop: str = "", limit: int = 0,
              keys_only: bool = False) -> Listing:
        """See KeyValue."""
        self._admit()
        return self._kv.range(prefix, start=start, stop=stop, limit=limit, keys_only=keys_only)

    def count(self, prefix: str, *, start: str = "", stop: str = "") -> int:
        """See KeyValue."""
        self._admit()
        return self._kv.count(prefix, start=start, stop=stop)

    def commit(self, compares: Sequence[Compare], ops: Sequence[Op]) -> int:
        """See KeyValue."""
        self._admit()
        return self._kv.commit(compares, ops)

    def lease(self, ttl_s: int) -> Lease:
        """See KeyValue."""
        self._admit()
        return self._kv.lease(ttl_s)

    def _admit(self) -> None:
        if reason := self._refusal():
            raise StoreUnavailable(reason)
