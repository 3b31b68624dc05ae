"""Records hosts' answers about the records of all their endpoints, and asks hosts for answers.

An answer is a revision of etcd: at that revision all endpoints of the host were on record, so
whatever was not on record then is not one of its endpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from driver.errors import UnsupportedRecord
from driver.model import HostAddress, HostId
from driver.services.ports import Answer
from driver.store.feeds.feed import Feed
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.kv.protocol import Change, Entry, KeyValue, Put
from driver.work.logs import STANDING

QUESTION_S: Final = 60  # TTL of a question's lease: whoever still wants to know asks again

log = logging.getLogger(__name__)


class EtcdAnswers:
    """driver.services.ports.Answers over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue, me: HostId, feeds: Feeds | None = None) -> None:
        """feeds: bring the questions to this host; None: it hears no questions."""
        self._kv = kv
        self._me = me
        self._feeds = feeds
        self._followed: list[Feed] = []

    def say(self, revision: int, *, removed: HostAddress | None = None) -> None:
        """See ports.Answers.  removed: the host's underlay address, where others speak for it."""
        self._kv.commit([], [Put(keys.answer(self._me), records.encode(
            records.answer_fields(Answer(revision, removed))))])

    def all(self) -> dict[HostId, Answer]:
        """See ports.Answers."""
        found = {}
        for entry in self._kv.range(keys.ANSWERS).entries:
            try:
                answer = records.decode(entry, records.answer)
            except UnsupportedRecord as error:
                log.error("%s", error, extra=STANDING)
                continue
            # A revision from the future was written before etcd lost its data.
            if answer.revision <= entry.mod_revision:
                found[keys.answer_of(entry.key)] = answer
        return found

    def ask(self, host_id: HostId, revision: int) -> None:
        """See ports.Answers."""
        _ask(self._kv, keys.question(host_id), revision)

    def follow(self, asked: Callable[[int], None]) -> None:
        """Call `asked` with each question to this host, including one already there."""
        if self._feeds is not None:
            self._followed.append(self._feeds.follow(
                keys.question(self._me), _QuestionListener(asked)))

    def close(self) -> None:
        """End the feeds."""
        for feed in self._followed:
            feed.close()


class EtcdPublications:
    """driver.services.ports.Publications over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    def all(self) -> dict[str, int]:
        """See ports.Publications."""
        return {keys.publisher_of(entry.key): _revision(entry)
                for entry in self._kv.range(keys.PUBLISHERS).entries}

    def ask(self, revision: int) -> None:
        """See ports.Publications."""
        _ask(self._kv, keys.SERVICES_QUESTION, revision)


def asked_revision(entry: Entry | None) -> int:
    """Return the revision that the question is about; 0: nobody asks."""
    return 0 if entry is None else _revision(entry)


def _ask(kv: KeyValue, key: str, revision: int) -> None:
    if asked_revision(kv.get(key)) < revision:
        lease = kv.lease(QUESTION_S)
        kv.commit([], [Put(key, records.encode(records.revision_fields(revision)), lease.id)])


def _revision(entry: Entry) -> int:
    try:
        return records.decode(entry, records.revision)
    except UnsupportedRecord as error:
        log.error("%s", error, extra=STANDING)
        return 0


class _QuestionListener:
    def __init__(self, asked: Callable[[int], None]) -> None:
        self._asked = asked

    def listed(self, entries: Sequence[Entry], revision: int) -> None:  # noqa: ARG002
        for entry in entries:
            self._asked(_revision(entry))

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.value is not None:
                self._asked(_revision(Entry(change.key, change.value, change.mod_revision)))
