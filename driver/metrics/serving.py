"""Serves the metrics where the setting says, and again and again until that works.

The driver runs whether it works or not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol

from driver.errors import SlimError
from driver.work.ledger import Ledger, Page
from driver.work.shown import at_port

log = logging.getLogger(__name__)


class Server(Protocol):
    """Listens and answers; see driver.api.metrics_server."""

    def start(self) -> None:
        """Listen and answer.  Error: SlimError, if the address cannot be used."""

    def stop(self) -> None:
        """Undo `start`.  Idempotent."""


class MetricsServing:
    """One server at one address.  Thread-safe."""

    def __init__(self, host: str, port: int, server: Callable[[], Server], ledger: Ledger) -> None:
        """server: makes one for that address; it has not begun yet."""
        self._host = host
        self._at = at_port(host, port)
        self._make = server
        self._page: Page[str, None] = ledger.page("serve metrics at", self._serve, called=str)
        self._lock = threading.Lock()  # of the next two
        self._server: Server | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin; what does not work is repeated.  Returns at once."""
        if not ip_address(self._host).is_loopback:
            log.warning("metrics are served at %s, which is not loopback: whoever reaches that "
                        "address may read them", self._at)
        try:
            with self._page.attempt(self._at, None):
                self._begin()
        except SlimError as error:
            log.warning("metrics are not served yet: %s", error)

    def stop(self) -> None:
        """End."""
        with self._lock:
            self._stopped = True
            server, self._server = self._server, None
        self._page.drop(self._at)
        if server is not None:
            server.stop()

    def describe(self) -> str:
        """Say in the status where they are served."""
        with self._lock:
            served = self._server is not None
        return f"served at {self._at}" if served else (
            f"not served at {self._at} yet: see outstanding")

    def _serve(self, _at: str, _none: None) -> None:
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._stopped or self._server is not None:
                return
            server = self._make()
            server.start()
            self._server = server
