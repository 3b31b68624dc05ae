"""Keeps the records of tests in etcd: one round at a time, and all of it under the round's lease.

Whoever asks for the round ends it; if that process dies, the lease does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from driver.errors import UnsupportedRecord
from driver.model import Host, HostId, KnownHost
from driver.services.ports import Participant, Round, Row
from driver.store.format import keys, records, rounds
from driver.store.kv.protocol import Change, Entry, KeyValue, Lease, Put, Unchanged
from driver.work.logs import STANDING

log = logging.getLogger(__name__)

ROUND_S: Final = 60  # TTL of a round's lease, which nobody renews: longer than any round
READS: Final = 3  # of which the shortest counts

T = TypeVar("T")


class EtcdRounds:
    """driver.services.ports.Rounds over etcd.  Thread-safe for one round at a time."""

    def __init__(self, kv: KeyValue, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._kv = kv
        self._clock = clock
        self._lease: Lease | None = None  # of the round that was begun here

    def begin(self, asked: Round) -> Round | None:
        """See ports.Rounds."""
        if self._kv.get(keys.ROUND) is not None:
            return None
        lease = self._kv.lease(ROUND_S)
        begun = replace(asked, lease=lease.id, go=False)
        if not self._kv.commit([Unchanged(keys.ROUND, 0)], [Put(
                keys.ROUND, records.encode(rounds.round_fields(begun)), lease.id)]):
            lease.revoke()
            return None
        self._lease = lease
        return begun

    def current(self) -> Round | None:
        """See ports.Rounds."""
        entry = self._kv.get(keys.ROUND)
        return None if entry is None else read_round(entry)

    def go(self, asked: Round) -> bool:
        """See ports.Rounds."""
        entry = self._kv.get(keys.ROUND)
        now = None if entry is None else read_round(entry)
        if entry is None or now is None or now.token != asked.token:
            return False
        return bool(self._kv.commit(
            [Unchanged(keys.ROUND, entry.mod_revision)],
            [Put(keys.ROUND, records.encode(rounds.round_fields(replace(asked, go=True))),
                 asked.lease)]))

    def end(self, asked: Round) -> None:
        """See ports.Rounds."""
        del asked
        if self._lease is not None:
            self._lease.revoke()
            self._lease = None

    def enter(self, asked: Round, participant: Participant) -> None:
        """See ports.Rounds."""
        self._put(asked, keys.participant(asked.token, participant.host),
                  rounds.participant_fields(participant))

    def participants(self, asked: Round) -> Mapping[HostId, Participant]:
        """See ports.Rounds."""
        return self._read(keys.participants(asked.token), rounds.participant,
                          lambda each: each.host)

    def put_row(self, asked: Round, row: Row) -> None:
        """See ports.Rounds."""
        self._put(asked, keys.row(asked.token, row.host), rounds.row_fields(row))

    def rows(self, asked: Round) -> Mapping[HostId, Row]:
        """See ports.Rounds."""
        return self._read(keys.rows(asked.token), rounds.row, lambda each: each.host)

    def live(self) -> Mapping[HostId, Host]:
        """See ports.Rounds."""
        return self._read(keys.HOSTS, records.host, lambda each: each.id)

    def known(self) -> Mapping[HostId, KnownHost]:
        """See ports.Rounds."""
        return self._read(keys.KNOWN, records.known, lambda each: each.host.id)

    def measure_us(self) -> int:
        """See ports.Rounds."""
        return min(self._read_us() for _ in range(READS))

    def _read_us(self) -> int:
        began_s = self._clock()
        self._kv.get(keys.CLUSTER)
        return int((self._clock() - began_s) * 1e6)

    def _put(self, asked: Round, key: str, fields: records.Fields) -> None:
        self._kv.commit([], [Put(key, records.encode(fields), asked.lease)])

    def _read(self, prefix: str, build: Callable[[records.Fields], T],
              host_of: Callable[[T], HostId]) -> dict[HostId, T]:
        """Return the records by their host; one under another host's key is left out, too."""
        found = {}
        for entry in self._kv.range(prefix).entries:
            try:
                value = records.decode(entry, build)
            except UnsupportedRecord as error:
                log.error("%s", error, extra=STANDING)
                continue
            if keys.last_of(entry.key) == host_of(value):
                found[host_of(value)] = value
        return found


class RoundListener:
    """A FeedListener of keys.ROUND: calls `listener` with the round that is under way, or None."""

    def __init__(self, listener: Callable[[Round | None], None]) -> None:
        self._listener = listener

    def listed(self, entries: Sequence[Entry], revision: int) -> None:  # noqa: ARG002
        """See FeedListener."""
        self._listener(next((read_round(each) for each in entries if each.key == keys.ROUND), None))

    def changed(self, changes: Sequence[Change]) -> None:
        """See FeedListener."""
        for change in changes:
            if change.key == keys.ROUND:
                self._listener(None if change.value is None else read_round(
                    Entry(change.key, change.value, change.mod_revision)))


def read_round(entry: Entry) -> Round | None:
    """Decode a round; None, and a line in the log, if it cannot be read."""
    try:
        return records.decode(entry, rounds.round_)
    except UnsupportedRecord as error:
        log.error("%s", error, extra=STANDING)
        return None
