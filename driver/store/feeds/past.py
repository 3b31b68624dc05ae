"""Tells whether a store is the same as before, and which revisions it has compacted.

An etcd that was restored from a snapshot may have the same cluster id, and may have been written
to since: a higher revision proves nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace

from driver.store.kv.protocol import Change, Entry, Moment, WatchedKeyValue


@dataclass(frozen=True)
class Past:
    """The highest revision that a store has reported, and the last change as a witness."""

    moment: Moment
    witness: Change | None = None

    def with_entries(self, revision: int, entries: Iterable[Entry]) -> Past:
        """Return the past after a list."""
        return self.with_changes(revision, (
            Change(entry.key, entry.value, entry.mod_revision) for entry in entries))

    def with_changes(self, revision: int, changes: Iterable[Change]) -> Past:
        """Return the past after news of a watch."""
        last = max(changes, key=lambda change: change.mod_revision, default=None)
        before = self.witness.mod_revision if self.witness else 0
        return replace(
            self, moment=replace(self.moment, revision=max(revision, self.moment.revision)),
            witness=last if last is not None and last.mod_revision > before else self.witness)

    def contradicted(self, kv: WatchedKeyValue, now: Moment) -> bool:
        """Tell whether the store, which is at `now`, is certainly not the same as before.

        Error: StoreUnavailable.
        """
        return (now.cluster != self.moment.cluster or now.revision < self.moment.revision
                or (self.witness is not None and not kv.remembers(self.witness)))


def compacted(kv: WatchedKeyValue, key: str, revisions: Iterable[int]) -> set[int]:
    """Return those from which changes can no longer be reported; none may be after now.

    Takes one request if nothing is compacted.  Error: StoreUnavailable.
    """
    ordered = sorted(set(revisions))
    if not ordered or kv.keeps(key, ordered[0]):
        return set()
    return set(ordered[:bisect_left(
        ordered, True, lo=1, key=lambda revision: kv.keeps(key, revision))])
