"""Owns who is in a sandbox, as values: endpoints that are expected, and those that are set up.

Pure: it must not know how a sandbox is entered, nor when.
"""

from __future__ import annotations

from collections.abc import Callable
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
        """The endpoint whose interface carries the host path, if there is one at all."""
        members = self.members.values()
        return next((each for each in members if each.has_host_path), next(iter(members)))

    def primary_first(self) -> list[Expected]:
        """All members, the primary before the others."""
        return sorted(self.members.values(), key=lambda each: each is not self.primary)

    def would_carry(self, expected: Expected) -> bool:
        """Whether this endpoint's interface carries the host path once it is a member."""
        return expected.has_host_path and not any(
            self.primary.endpoint.id == each.endpoint.id != expected.endpoint.id
            for each in self.members.values() if each.has_host_path)

    def enter(self, expected: Expected) -> None:
        """Make it a member; one that gets its port only now comes after those that have theirs."""
        before = self.members.get(expected.endpoint.id)
        if before is not None and not before.has_host_path:
            del self.members[expected.endpoint.id]
        self.members[expected.endpoint.id] = expected

    def entry(self, uses_host_path: Callable[[Endpoint], bool] = lambda _: True) -> SandboxEntry:
        """Return what the maps are told; port 0, of endpoints without a part in the host path:
        services' addresses work, over the overlay."""
        return SandboxEntry(
            cookie=self.cookie, primary_ifindex=self.primary.veth.host_ifindex,
            attachments=tuple(
                Attachment(member.endpoint.vni, member.endpoint.address,
                           member.endpoint.port if uses_host_path(member.endpoint) else 0,
                           member.veth.host_ifindex)
                for member in self.members.values() if member.endpoint.address is not None))
