"""Records a history of address requests and releases, and checks it.

Every call is recorded twice, before it is made and when its outcome is known.  One clock orders
the record.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from driver.errors import Exhausted, StoreUnavailable
from driver.services.addresses.service import AddressService
from driver.store.kv.protocol import OutcomeUnknown


@dataclass(frozen=True)
class Event:
    """`at_ns` is CLOCK_MONOTONIC; a request has no address until it is "ok"."""

    at_ns: int
    worker: str  # "<host>/<number>": one call at a time
    call: str  # request, release
    phase: str  # invoke, ok, fail (certainly without effect), unknown
    address: str = ""


class History:
    """The events that workers record, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.events: list[Event] = []
        self.counts: Counter[str] = Counter()

    def add(self, worker: str, call: str, phase: str, address: str = "") -> None:
        with self._lock:
            self.events.append(Event(time.monotonic_ns(), worker, call, phase, address))
            self.counts[f"{call} {phase}"] += 1
            self.counts[f"{worker} {phase}"] += 1

    def done(self, host: str = "") -> int:
        """Count the calls that succeeded: all, or those of a host."""
        with self._lock:
            return sum(count for name, count in self.counts.items()
                       if name.endswith(" ok") and name.startswith(f"{host}/" if host else "re"))


def wrong(events: Iterable[Event]) -> list[str]:
    """Return each moment at which two workers certainly had one address.

    A worker certainly has an address from the answer that gave it until it asks for its release.
    A call without an answer may have had any outcome, so it contradicts nothing.
    """
    holders: dict[str, str] = {}
    found: list[str] = []
    for event in events:
        if (event.call, event.phase) == ("request", "ok"):
            if event.address in holders:
                found.append(f"{event.address} was given to {event.worker} at {event.at_ns} ns, "
                             f"while {holders[event.address]} had it")
            holders[event.address] = event.worker
        elif ((event.call, event.phase) == ("release", "invoke")
              and holders.get(event.address) == event.worker):
            del holders[event.address]
    return found


def held(events: Iterable[Event]) -> dict[str, str]:
    """Return who certainly has which address at the end: address -> host."""
    holders: dict[str, str] = {}
    for event in events:
        if (event.call, event.phase) == ("request", "ok"):
            holders[event.address] = event.worker.partition("/")[0]
        elif (event.call, event.phase) == ("release", "invoke"):
            holders.pop(event.address, None)
    return holders


class Worker:
    """Requests and releases addresses at random until it is told to stop, and records that."""

    def __init__(self, history: History, name: str, service: AddressService, pool_id: str,
                 seed: str) -> None:
        self._history = history
        self._name = name
        self._service = service
        self._pool_id = pool_id
        self._random = Random(f"{seed}/{name}")
        self._held: list[str] = []
        self.failure = ""

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                if len(self._held) < 3 and self._random.random() < 0.6:
                    self.request()
                elif self._held:
                    self.release()
        except Exception as error:  # a defect of the driver or the test: the test fails with it
            self.failure = f"{self._name}: {error!r}"

    def has_any(self) -> bool:
        return bool(self._held)

    def request(self) -> None:
        self._history.add(self._name, "request", "invoke")
        try:
            address = str(self._service.request_address(self._pool_id, "", options={}).ip)
        except (StoreUnavailable, Exhausted) as error:
            self._history.add(self._name, "request", _phase(error))
        else:
            self._history.add(self._name, "request", "ok", address)
            self._held.append(address)

    def release(self) -> None:
        address = self._held.pop(self._random.randrange(len(self._held)))
        self._history.add(self._name, "release", "invoke", address)
        try:
            self._service.release_address(self._pool_id, address)
        except StoreUnavailable as error:
            # The service must finish it, since dockerd does not ask a second time either.
            self._history.add(self._name, "release", _phase(error), address)
        else:
            self._history.add(self._name, "release", "ok", address)


def _phase(error: Exception) -> str:
    return "unknown" if isinstance(error, OutcomeUnknown) else "fail"
