"""Answers for this host whether all its endpoints are on record.

The answer lets others remove the entries that lack a record, so it is given only if this host
itself has no doubt: each interface that it has made has an endpoint, and each endpoint its record.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from driver.errors import SlimError
from driver.model import Endpoint
from driver.services.ports import Answers, Endpoints, Links

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0  # while something is missing: it is being entered again or awaits a person


class OwnRecords(Protocol):
    """This host's records in etcd."""

    def missing(self, own: Callable[[], Sequence[Endpoint]]) -> tuple[list[Endpoint], int]:
        """Return this host's endpoints without a record, and as of which revision; 0: ask again.

        own: returns all of this host's endpoints, as it knows them.
        """


class Answering:
    """Answers questions: a feed calls `asked`, and `run` is called at intervals.  Thread-safe."""

    def __init__(self, *, answers: Answers, records: OwnRecords, endpoints: Endpoints,
                 links: Links, ready: Callable[[], bool]) -> None:
        """ready: whether everything that this host has is known by now."""
        self._answers = answers
        self._records = records
        self._endpoints = endpoints
        self._links = links
        self._ready = ready
        self._lock = threading.Lock()
        self._asked = self._said = 0

    def asked(self, revision: int) -> None:
        """Take a question.  Returns at once."""
        with self._lock:
            if revision < self._asked:  # from another etcd, or one that was restored
                self._said = 0
            self._asked = revision

    def run(self) -> None:
        """Answer if somebody asked and it is true.  Error: SlimError; others may not know it."""
        with self._lock:
            asked = self._asked
            if asked <= self._said:
                return
        revision = self.complete()
        if revision and revision >= asked:
            self._answers.say(revision)
            with self._lock:
                self._said = revision

    def complete(self) -> int:
        """Return the revision as of which all endpoints are on record; 0: not known to be."""
        if not self._ready():
            return 0
        try:
            lost, revision = self._records.missing(self._endpoints.list)
            known = {self._links.veth_name(endpoint.id) for endpoint in self._endpoints.list()}
            strangers = self._links.list_veths().keys() - known
        except SlimError as error:
            log.debug("%s", error)
            return 0
        if lost or strangers:
            log.debug("%d endpoints without a record, %d interfaces of unknown ones", len(lost),
                      len(strangers))
            return 0
        return revision
