"""Lists which sandbox each endpoint is joined to (services.ports.Joins).

The list outlives the driver; a reboot removes the namespaces too, so nothing is synced to disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from driver.model import EndpointId
from driver.state.files import step

FOLDER = "joins"
_NEW = ".new"  # never an endpoint's name: quoting keeps a dot, and ids have none


class FiledJoins:
    """Stores one symbolic link per endpoint, to its sandbox; a link is never half-written."""

    def __init__(self, state: Path) -> None:
        """Keep the links in a folder of their own inside `state`."""
        self._folder = state / FOLDER

    def put(self, endpoint_id: EndpointId, sandbox_key: str) -> None:
        """See ports.Joins."""
        with step(f"endpoint {endpoint_id[:12]}: cannot note its sandbox"):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            new = self._folder / (quote(endpoint_id, safe="") + _NEW)
            new.unlink(missing_ok=True)  # left by a killed driver
            os.symlink(sandbox_key, new)
            os.replace(new, self._link(endpoint_id))

    def remove(self, endpoint_id: EndpointId) -> None:
        """See ports.Joins."""
        with step(f"endpoint {endpoint_id[:12]}: cannot remove the note of its sandbox"):
            self._link(endpoint_id).unlink(missing_ok=True)

    def all(self) -> dict[EndpointId, str]:
        """See ports.Joins."""
        with step("cannot read which sandboxes the endpoints are joined to"):
            try:
                links = list(self._folder.iterdir())
            except FileNotFoundError:
                return {}
            return {EndpointId(unquote(link.name)): os.readlink(link)
                    for link in links if not link.name.endswith(_NEW)}

    def _link(self, endpoint_id: EndpointId) -> Path:
        return self._folder / quote(endpoint_id, safe="")
