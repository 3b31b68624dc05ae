"""Has the names of its networks served in each sandbox, as long as it has such a network."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from driver.model import Endpoint, EndpointId
from driver.services.names.resolver import Resolver
from driver.services.ports import NameSandboxes, NameServers
from driver.work.ledger import Ledger


@dataclass
class _Members:
    """The endpoints of one namespace."""

    cookie: int
    endpoints: dict[EndpointId, Endpoint] = field(default_factory=dict)


class NameServing:
    """Opens and ends sandboxes' name servers.  Thread-safe; all calls return at once."""

    def __init__(self, sandboxes: NameSandboxes, servers: NameServers, resolver: Resolver,
                 ledger: Ledger) -> None:
        self._sandboxes = sandboxes
        self._servers = servers
        self._resolver = resolver
        self._lock = threading.Lock()
        self._members: dict[str, _Members] = {}  # by sandbox key
        self._served: dict[str, int] = {}  # sandbox key -> cookie; of the page's thread
        self._page = ledger.page("name server of sandbox", self._serve, called=str)

    def enter(self, sandbox_key: str, cookie: int, endpoint: Endpoint) -> None:
        """Serve a sandbox the names of one more network.  cookie: its namespace's."""
        with self._lock:
            members = self._members.get(sandbox_key)
            if members is None or members.cookie != cookie:  # another one at the same path
                members = self._members[sandbox_key] = _Members(cookie)
            members.endpoints[endpoint.id] = endpoint
            self._judge(sandbox_key, members)

    def leave(self, sandbox_key: str, endpoint_id: EndpointId) -> None:
        """Undo `enter`.  Idempotent."""
        with self._lock:
            members = self._members.get(sandbox_key)
            if members is None or members.endpoints.pop(endpoint_id, None) is None:
                return
            self._judge(sandbox_key, members)
            if not members.endpoints:
                del self._members[sandbox_key]

    def _judge(self, sandbox_key: str, members: _Members) -> None:
        served = self._resolver.enter(sandbox_key, tuple(members.endpoints.values()))
        self._page.put(sandbox_key, members.cookie if served else 0)

    def count(self) -> int:
        """Count the sandboxes in which names are served."""
        return len(self._served)

    def _serve(self, sandbox_key: str, cookie: int) -> None:
        """cookie 0: serve it no more."""
        if self._served.get(sandbox_key, 0) == cookie:
            return
        if sandbox_key in self._served:
            self._servers.remove(sandbox_key)
            self._sandboxes.remove(sandbox_key)
            del self._served[sandbox_key]
        if cookie:
            self._servers.add(sandbox_key, self._sandboxes.open(sandbox_key))
            self._served[sandbox_key] = cookie
