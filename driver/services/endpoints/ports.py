"""Assigns this host's endpoint ports to its endpoints.

The durable truth is in the endpoint records, from which the assignment is restored at start.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from driver.errors import Exhausted
from driver.model import Endpoint, EndpointId


class EndpointPorts:
    """Hands out the least recently used free port of [first, last], both inclusive.

    A freed port goes to the end of the queue: a peer whose directory lags behind must not reach
    another endpoint under the old number.
    """

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)
        self._guard = threading.Lock()
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(self._range)
        self._owners: dict[EndpointId, int] = {}
        self._restored = False

    def restore_once(self, read: Callable[[], Iterable[Endpoint]]) -> None:
        """`restore` what `read` returns, unless that has been done; errors of `read` pass through.

        etcd may have been unavailable when the driver started; no port is handed out before.
        """
        if self._restored:
            return
        endpoints = list(read())
        with self._guard:
            # The first of several callers to come back: what the others read may be outdated.
            if not self._restored:
                self._take(endpoints)
                self._restored = True

    def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """Take over the ports that this host's endpoint records name.  Idempotent."""
        with self._guard:
            self._take(endpoints)

    def spare(self, ports: Iterable[int]) -> None:
        """Never hand these out: each has an owner in the kernel, known here or not."""
        with self._guard:
            for port in ports:
                self._free.pop(port, None)

    def _take(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint.port:
                self._owners[endpoint.id] = endpoint.port
                self._free.pop(endpoint.port, None)

    def request(self, endpoint_id: EndpointId) -> int:
        """Return the endpoint's port, a new one if it has none.  Error: Exhausted."""
        with self._guard:
            port = self._owners.get(endpoint_id)
            if port is None:
                if not self._free:
                    raise Exhausted(
                        f"no endpoint port is free: all {len(self._range)} of "
                        f"{self._range[0]}-{self._range[-1]} are in use on this host; "
                        "widen --port-range")
                port, _ = self._free.popitem(last=False)
                self._owners[endpoint_id] = port
            return port

    def release(self, endpoint_id: EndpointId) -> None:
        """Give the endpoint's port back.  Idempotent."""
        with self._guard:
            port = self._owners.pop(endpoint_id, None)
            # A port restored from a record may lie outside the range if that has changed since.
            if port is not None and port in self._range and port not in self._owners.values():
                self._free[port] = None

    def free(self) -> int:
        """Count the ports that can still be handed out."""
        return len(self._free)

    def in_use(self) -> int:
        """Count the endpoints that have a port."""
        return len(self._owners)
