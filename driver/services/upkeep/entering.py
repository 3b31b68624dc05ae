"""Puts back on record what etcd has lost of this host's own objects, as its notes list them.

Nothing is ever taken from a container here.  What is in the way (an address that another host's
endpoint has by now, an unreadable record) is left as it is, and reported until it is settled.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from driver.errors import SlimError, StoreUnavailable
from driver.services.addresses.service import AddressService
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.networks.lifecycle import NetworkService
from driver.services.notes.own import OwnEndpoints, OwnNetworks
from driver.work import deadline
from driver.work.later import Later
from driver.work.shown import some_of

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
CHECK_S: Final = 600.0  # between looks at everything, asked for or not
LIMIT_S: Final = 60.0
_ALL: Final = "records of this host"


class Entering:
    """Compares and enters.  `ask` may be called from anywhere; a separate thread does the work."""

    def __init__(self, *, networks: OwnNetworks, endpoints: OwnEndpoints,
                 addresses: AddressService, service: EndpointService,
                 network_service: NetworkService,
                 may_begin: Callable[[], bool] = lambda: True,
                 before: Callable[[], None] = lambda: None,
                 done: Callable[[], None] = lambda: None) -> None:
        """may_begin: whether this host is registered, so that nobody else removes its records.

        before: called first; an error of it (SlimError) postpones the rest.
        done: called after each complete look.
        """
        self._networks = networks
        self._endpoints = endpoints
        self._addresses = addresses
        self._service = service
        self._network_service = network_service
        self._may_begin = may_begin
        self._before = before
        self._done = done
        self._guard = threading.Lock()
        self._in_the_way: list[str] = []
        self._entered = 0
        self._looked = False
        self._later: Later[str] = Later(self._run, threads=1, name="entering")

    def start(self) -> None:
        """Start; the first look needs no request."""
        self._later.start()
        self.ask()

    def stop(self) -> None:
        """Stop."""
        self._later.stop()

    def ask(self, delay_s: float = 0.0) -> None:
        """Look soon, as something of this host's may be missing in etcd.  Returns at once."""
        self._later.submit(_ALL, delay_s)

    def describe(self) -> str:
        """Describe the state in words."""
        with self._guard:
            shown = some_of(self._in_the_way)
            entered = f"{self._entered} entered again since the start"
        if not self._looked:
            return "not compared with etcd yet"
        if shown:
            return f"IN DOUBT: {shown}; {entered}"
        return f"all of this host's is in etcd; {entered}"

    def in_the_way(self) -> int:
        """Count what could not be put on record."""
        with self._guard:
            return len(self._in_the_way)

    def is_complete(self) -> bool:
        """Tell whether everything of this host's was on record at the last look."""
        with self._guard:
            return self._looked and not self._in_the_way

    def _run(self, key: str) -> None:
        try:
            with deadline.limit(LIMIT_S):
                complete = self._may_begin() and self.run()
        except SlimError as error:
            log.log(logging.DEBUG if isinstance(error, StoreUnavailable) else logging.WARNING,
                    "this host's records cannot be compared with etcd yet: %s", error)
            complete = False
        self._later.submit(key, CHECK_S if complete else RETRY_S)

    def run(self) -> bool:
        """Look once, and enter what is missing; True: nothing is in the way.

        Errors: StoreUnavailable, StateError.  A conflict over one object does not keep the others.
        """
        in_the_way: list[str] = []
        entered = 0
        self._before()
        self._note_what_is_on_record()
        for network in self._networks.list():
            entered += self._try(in_the_way, f"network {network.id[:12]}",
                                 self._network_service.enter, network.id)
        self._try(in_the_way, "pools and addresses", self._enter_addresses, in_the_way)
        for endpoint in self._endpoints.list():
            entered += self._try(in_the_way, f"endpoint {endpoint.id[:12]}",
                                 self._service.enter, endpoint.id)
        with self._guard:
            new = [each for each in in_the_way if each not in self._in_the_way]
            self._in_the_way, self._looked = in_the_way, True
            self._entered += entered
        for each in new:
            log.warning("%s: what runs goes on, nothing is removed; see `slim status`", each)
        if entered:
            log.warning("etcd had lost %d records of this host's: they are entered again", entered)
        self._done()
        return not in_the_way

    def _note_what_is_on_record(self) -> None:
        """Settle this host's networks and endpoints without a note: lost notes, or old data."""
        for network in self._networks.on_record():
            if self._networks.get(network.id) is None:
                self._network_service.take(network.id)
        for endpoint in self._endpoints.on_record():
            if self._endpoints.get(endpoint.id) is None:
                self._service.take_or_delete(endpoint)

    def _enter_addresses(self, in_the_way: list[str]) -> bool:
        in_the_way += self._addresses.enter(
            lambda endpoint: self._endpoints.get(endpoint) is not None)
        return False

    @staticmethod
    def _try(in_the_way: list[str], what: str, act: Callable[..., bool], *arguments: object
             ) -> bool:
        try:
            return act(*arguments)
        except StoreUnavailable:
            raise
        except SlimError as error:
            in_the_way.append(f"{what}: {error}")
            return False

