"""Defines the kernel maps as the use cases fill them.

The programs that read them are in kernel/.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Protocol

from driver.model import Endpoint, HostAddress, Vni
from driver.services.ports.links import Veth


@dataclass(frozen=True)
class Attachment:
    """What a sandbox's connect hook needs to know about one of its endpoints."""

    vni: Vni
    address: IPv4Interface
    port: int
    host_ifindex: int
    address6: IPv6Interface | None = None  # None: no IPv6 connections on the host path


@dataclass(frozen=True)
class SandboxEntry:
    """One sandbox as the maps know it."""

    cookie: int
    primary_ifindex: int  # of the host's end of the veth that carries its host path
    attachments: tuple[Attachment, ...]


class Datapath(Protocol):
    """The kernel maps.  All their content is derived from etcd and may be rebuilt at any time."""

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """Let the overlay path reach the endpoint, and attach the host end's hooks."""

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """Undo publish_endpoint and end the endpoint's flows; ifindex 0: its link is gone."""

    def withdraw_interface(self, host_ifindex: int) -> None:
        """Undo publish_endpoint of an endpoint that is no longer known."""

    def endpoint_ifindexes(self) -> set[int]:
        """Return the ifindexes of the host's ends of all published endpoints."""

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        """Let the sandbox use the host path in both directions.  Replaces an earlier entry."""

    def withdraw_sandbox(self, cookie: int) -> None: ...

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None:
        """Keep the sandbox off the host path for good: it has several networks and a listener
        bound to a device, or a listener with TCP-MD5 keys.  May come before publish_sandbox.
        """

    def put_remote(self, endpoint: Endpoint) -> None:
        """Enter an endpoint of any host into the directory (and the reverse map)."""

    def delete_remote(self, endpoint: Endpoint) -> None: ...

    def list_remotes(self) -> Iterable[Endpoint]:
        """Return all directory entries, each as an endpoint with one address and no ids."""

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        """Return whether its host's endpoint port was entered for another address since."""

    def local_networks(self) -> set[Vni]:
        """Return the networks that an interface of this host is in."""

    def set_flood(self, vni: Vni, hosts: Sequence[HostAddress], ifindexes: Sequence[int]) -> None:
        """Send the network's broadcasts to these hosts' underlay addresses and local veths."""

    def list_floods(self) -> Collection[Vni]:
        """Return the networks whose broadcasts have any target."""

    def refuse_hosts(self, hosts: Collection[HostAddress]) -> None:
        """Make connect() to endpoints of exactly these hosts (U) fail at once.

        Holds for at least a minute; repeat the call before that.  Error: DatapathError.
        """

    def put_vip(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]
                    ) -> None:
        """Send connections to this vip to any of these endpoints of the network.

        Without backends they are refused.  Idempotent.  Error: DatapathError.
        """

    def delete_vip(self, vni: Vni, address: IPv4Address) -> None: ...

    def list_vips(self) -> Collection[tuple[Vni, IPv4Address]]:
        """Return all vips with their networks."""

    def counters(self) -> dict[str, int]:
        """Return the packets or connections per reason since the maps were created."""
