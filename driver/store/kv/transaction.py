"""Builds commits, and learns the outcome of one that etcd did not answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from driver.errors import StoreUnavailable
from driver.store.kv.protocol import (
    Compare,
    Delete,
    Empty,
    Entry,
    KeyValue,
    Op,
    OutcomeUnknown,
    Put,
    Read,
    Unchanged,
)


def recalling(kv: KeyValue) -> Read:
    """Return a `get` that asks etcd only for entries not remembered (see KeyValue.recall)."""
    return lambda key: kv.recall(key) or kv.get(key)


def prefix_end(prefix: str) -> bytes:
    """Return the first key after all keys with `prefix` (which must not be empty)."""
    # Keys are ASCII (keys.py quotes the rest), so the last byte can always be incremented.
    raw = prefix.encode()
    return raw[:-1] + bytes((raw[-1] + 1,))


@dataclass
class Transaction:
    """Builds one commit: what must still be as it was read, and what to do then."""

    compares: list[Compare] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    def as_read(self, key: str, entry: Entry | None) -> None:
        """Add the condition that the key is still as in `entry` (None: absent)."""
        self.unchanged(key, entry.mod_revision if entry else 0)

    def unchanged(self, key: str, mod_revision: int) -> None:
        """Add the condition that the key was last changed at `mod_revision` (0: is absent)."""
        self.compares.append(Unchanged(key, mod_revision))

    def empty(self, prefix: str, but: str) -> None:
        """Add the condition that there is no key under `prefix` except `but`."""
        self.compares.append(Empty(prefix, but))
        self.compares.append(Empty(but + "\0", prefix_end(prefix).decode()))

    def put(self, key: str, value: bytes) -> None:
        """Add the write of a value."""
        self.ops.append(Put(key, value))

    def delete(self, key: str) -> None:
        """Add the removal of a key."""
        self.ops.append(Delete(key))

    def commit(self, kv: KeyValue) -> bool:
        """Commit; return whether it was done.  False: something changed, read again.

        If the outcome is unknown, this reads back the first operation to learn it: a put whose
        value nobody else writes (records carry a random `write` id), or a delete.  If the effect
        is missing, it retries the same transaction once; that is safe because each transaction
        compares a key that it changes, so it cannot happen twice.
        Errors: OutcomeUnknown (it might still happen), StoreUnavailable.
        """
        try:
            return bool(kv.commit(self.compares, self.ops))
        except OutcomeUnknown as unknown:
            try:
                return (self._done(kv) or bool(kv.commit(self.compares, self.ops))
                        or self._done(kv))
            except StoreUnavailable:
                raise unknown from None

    def _done(self, kv: KeyValue) -> bool:
        first = self.ops[0]
        found = kv.get(first.key)
        if isinstance(first, Put):
            return found is not None and found.value == first.value
        return found is None
