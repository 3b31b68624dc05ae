"""Has the names of its networks served in each sandbox, as long as it has such a network."""

from __future__ import annotations

from collections.abc import Sequence

from driver.model import Endpoint
from driver.services.names.resolver import Resolver
from driver.services.ports import NameSandboxes, NameServers
from driver.work.ledger import Ledger


class NameServing:
    """Opens and ends sandboxes' name servers.  Thread-safe; all calls return at once."""

    def __init__(self, sandboxes: NameSandboxes, servers: NameServers, resolver: Resolver,
                 ledger: Ledger) -> None:
        self._sandboxes = sandboxes
        self._servers = servers
        self._resolver = resolver
        self._served: dict[str, int] = {}  # sandbox key -> cookie; of the page's thread
        self._page = ledger.page("name server of sandbox", self._serve, called=str)

    def enter(self, sandbox_key: str, cookie: int, endpoints: Sequence[Endpoint]) -> None:
        """Serve a sandbox, or what it is in by now.  cookie: its namespace's."""
        if self._resolver.enter(sandbox_key, endpoints):
            self._page.put(sandbox_key, cookie)
        else:
            self.leave(sandbox_key)

    def leave(self, sandbox_key: str) -> None:
        """Undo `enter`.  Idempotent."""
        self._resolver.leave(sandbox_key)
        self._page.put(sandbox_key, 0)

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
