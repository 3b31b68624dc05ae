"""Owns who is in a sandbox, as values: endpoints that are expected, and those that are set up.

Pure: it must not know how a sandbox is entered, nor when.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from driver.model import Endpoint, EndpointId
from driver.services.ports import Attachment, SandboxEntry, Veth


@dataclass(frozen=True)
class Expected:
    """An endpoint whose container's end dockerd moves in, sooner or later."""

    endpoint: Endpoint
    veth: Veth

    @property
    def has_host_path(self) -> bool:
        """Without an IPv4 address or an endpoint port there is only the overlay path."""
        return self.endpoint.address is not None and self.endpoint.port != 0


@dataclass
class Sandbox:
    """One namespace with at least one endpoint set up; guarded by its key's lock."""

    cookie: int
    # In the order in which they came up.  The first carries the host path for all.
    members: dict[EndpointId, Expected] = field(default_factory=dict)

    @property
    def primary(self) -> Expected:
        """The endpoint whose interface carries the host path."""
        return next(iter(self.members.values()))

    def entry(self) -> SandboxEntry:
        """Return what the maps are told."""
        return SandboxEntry(
            cookie=self.cookie, primary_ifindex=self.primary.veth.host_ifindex,
            attachments=tuple(
                Attachment(member.endpoint.vni, member.endpoint.address, member.endpoint.port,
                           member.veth.host_ifindex)
                for member in self.members.values() if member.endpoint.address is not None))
