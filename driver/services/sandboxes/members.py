"""Models who is in a sandbox: the endpoints that are expected, and those that are set up.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from driver.model import Endpoint, EndpointId
from driver.services.ports import Attachment, SandboxEntry, Veth


@dataclass(frozen=True)
class Expected:
    """An endpoint whose container's end dockerd will move into the sandbox."""

    endpoint: Endpoint
    veth: Veth

    @property
    def has_host_path(self) -> bool:
        """Whether it has both an IPv4 address and an endpoint port; else only the overlay path."""
        return self.endpoint.address is not None and self.endpoint.port != 0


@dataclass
class Sandbox:
    """One namespace with at least one endpoint set up; guarded by its key's lock."""

    cookie: int
    # In the order in which they came up.  The first with a host path carries it for all.
    members: dict[EndpointId, Expected] = field(default_factory=dict)

    @property
    def primary(self) -> Expected:
        """The endpoint whose interface carries the host path, if there is one at all."""
        members = self.members.values()
        return next((each for each in members if each.has_host_path), next(iter(members)))

    def primary_first(self) -> list[Expected]:
        """Return all members, the primary first."""
        return sorted(self.members.values(), key=lambda each: each is not self.primary)

    def would_carry(self, expected: Expected) -> bool:
        """Return whether this endpoint's interface carries the host path once it is a member."""
        return expected.has_host_path and not any(
            self.primary.endpoint.id == each.endpoint.id != expected.endpoint.id
            for each in self.members.values() if each.has_host_path)

    def enter(self, expected: Expected) -> None:
        """Make it a member; one that gets its port only now comes after those that had theirs."""
        before = self.members.get(expected.endpoint.id)
        if before is not None and not before.has_host_path:
            del self.members[expected.endpoint.id]
        self.members[expected.endpoint.id] = expected

    def entry(self, uses_host_path: Callable[[Endpoint], bool] = lambda _: True,
              takes_ipv6: Callable[[Endpoint], bool] = lambda _: True) -> SandboxEntry:
        """Return the entry for the maps.  Endpoints without a part in the host path get port 0:
        for them vips work over the overlay."""
        return SandboxEntry(
            cookie=self.cookie, primary_ifindex=self.primary.veth.host_ifindex,
            attachments=tuple(
                Attachment(member.endpoint.vni, member.endpoint.address,
                           member.endpoint.port if uses_host_path(member.endpoint) else 0,
                           member.veth.host_ifindex,
                           member.endpoint.address6 if takes_ipv6(member.endpoint) else None)
                for member in self.members.values() if member.endpoint.address is not None))
