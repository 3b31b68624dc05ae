"""Defines interfaces, the inside of sandboxes, and other machines on the underlay.

driver/link talks to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from driver.model import Endpoint, EndpointId, HostAddress


class Presence(Enum):
    """The result of asking for a sign of life."""

    ANSWERED = auto()
    ABSENT = auto()  # the network says that nobody is there
    SILENT = auto()


class Prober(Protocol):
    """Asks other machines for a sign of life."""

    def probe(self, hosts: Collection[HostAddress], wait_s: float
              ) -> dict[HostAddress, Presence]:
        """Ask all concurrently.  Error: LinkError (nothing could be asked)."""


@dataclass(frozen=True)
class Veth:
    """One endpoint's pair of interfaces.  dockerd moves and renames the inner one."""

    host_name: str
    host_ifindex: int
    container_name: str  # its name on the host: Join's SrcName
    # Set by list_veths only.  Without carrier nobody can be using the pair: its inner end is down.
    carrier: bool = field(default=False, compare=False)


class Links(Protocol):
    """Network interfaces of the host."""

    def create_veth(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        """Create the pair (host's end up, container's end NOARP and with `mac`); idempotent.

        `mtu` in bytes, for both ends.  Error: LinkError, and then nothing is left.
        """

    def delete_veth(self, endpoint_id: EndpointId) -> None:
        """Remove the pair, wherever its container's end is."""

    def delete_veth_named(self, host_name: str) -> None:
        """Remove a pair whose endpoint is unknown, by the name of its host's end."""

    def get_veth(self, endpoint_id: EndpointId) -> Veth | None: ...

    def list_veths(self) -> dict[str, Veth]:
        """Return all pairs of slim on this host, by the name of the host's end."""

    def veth_name(self, endpoint_id: EndpointId) -> str:
        """Return the name that the host's end of this endpoint has or would have."""


@dataclass(frozen=True)
class Interface:
    """An endpoint's interface as found inside its namespace."""

    ifindex: int
    name: str


@dataclass(frozen=True)
class Listeners:
    """What at least one of a sandbox's listening TCP sockets is tied to."""

    bound: bool  # to a device
    keyed: bool  # to keys of TCP-MD5


class Sandboxes(Protocol):
    """The inside of containers' network namespaces, never entered in the caller's thread."""

    def cookie(self, sandbox_key: str) -> int | None:
        """Return the namespace's cookie (SO_NETNS_COOKIE, 64 bit); None: there is no namespace."""

    def set_up(self, sandbox_key: str, endpoint: Endpoint, veth: Veth, *,
               underlay: HostAddress | None, overlay_mtu: int, primary: bool) -> None:
        """Set up routes, rules and the ingress hook for one endpoint that dockerd has moved in.

        underlay: None: there is no host path.  `primary`: this interface carries the host path
        (its routing table names it).  Idempotent.
        """

    def listeners(self, sandbox_key: str) -> Listeners:
        """Inspect the sandbox's current listening sockets.  Error: LinkError."""

    def put_away(self, sandbox_key: str, endpoint: Endpoint, veth: Veth) -> None:
        """Set the interface down, remove its address and give it back its original name.

        Nobody in the sandbox can use it any more, and dockerd, which looks for the name that it
        gave, finds nothing to move back.  Error: LinkError, also if the interface is not inside.
        """

    def tear_down(self, sandbox_key: str, underlay: HostAddress | None) -> None:
        """Remove the host path's routes and rules (the last endpoint left).  Idempotent."""


class Teardowns(Protocol):
    """Notes of sandboxes whose inside is still to be torn down; they outlive this process."""

    def begin(self, sandbox_key: str) -> None:
        """Note a sandbox.  Idempotent.  Error: LinkError."""

    def end(self, sandbox_key: str) -> None:
        """Remove the note: it is torn down, or in use again.  Idempotent.  Error: LinkError."""

    def outstanding(self) -> Sequence[str]:
        """Return the keys that were begun but not ended.  Error: LinkError."""


class Joins(Protocol):
    """Notes of the sandbox that each endpoint here is joined to; they outlive this process."""

    def put(self, endpoint_id: EndpointId, sandbox_key: str) -> None:
        """Note a join in place of an earlier one.  Error: LinkError."""

    def remove(self, endpoint_id: EndpointId) -> None:
        """Note that the endpoint is joined to none.  Idempotent.  Error: LinkError."""

    def all(self) -> dict[EndpointId, str]:
        """Return the sandbox keys of all joined endpoints.  Error: LinkError."""


class SandboxFinisher(Protocol):
    """Completes sandboxes after Join has answered: dockerd moves the interface only then."""

    def expect(self, endpoint: Endpoint, veth: Veth) -> None:
        """Set the sandbox up once the container's end of `veth` has come up.

        Returns at once.  Idempotent; `endpoint` carries its sandbox_key.
        """

    def forget(self, endpoint_id: EndpointId) -> None:
        """Stop expecting, or take the endpoint out of its sandbox's entry and rules."""

    def resume_teardowns(self) -> None:
        """Continue an earlier driver's teardowns, once everything that runs is expected again.

        Returns at once.  Error: LinkError.
        """


@dataclass(frozen=True)
class RoutedNetwork:
    """A network that the host has a route to."""

    subnet: IPv4Network | IPv6Network
    device: str  # of the route; "" if there is none, as with a blackhole


# The host's own routes, except those that stand for everything: slim's subnets avoid them.
RoutedNetworks = Callable[[], Sequence[RoutedNetwork]]
