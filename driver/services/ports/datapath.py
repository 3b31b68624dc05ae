"""The kernel maps, as the use cases fill them.

What the programs make of them is the matter of kernel/.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Protocol

from driver.model import Endpoint, Vni
from driver.services.ports.links import Veth


@dataclass(frozen=True)
class Attachment:
    """What a sandbox's connect hook needs to know of one of its endpoints."""

    vni: Vni
    address: IPv4Interface
    port: int
    host_ifindex: int


@dataclass(frozen=True)
class SandboxEntry:
    """One sandbox as the maps know it."""

    cookie: int
    primary_ifindex: int  # host's end of the veth that carries its host path
    attachments: tuple[Attachment, ...]


class Datapath(Protocol):
    """The kernel maps.  All of it is derived from etcd and may be rebuilt at any time."""

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """Let the overlay path reach the endpoint, and attach the host end's hooks."""

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """Undo publish_endpoint, and end the endpoint's flows; ifindex 0: its link is gone."""

    def withdraw_interface(self, host_ifindex: int) -> None:
        """Undo publish_endpoint of an endpoint that nothing is known of any more."""

    def endpoint_ifindexes(self) -> set[int]:
        """Return the host's ends of all published endpoints."""

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        """Let the sandbox use the host path, both ways.  Replaces an earlier entry."""

    def withdraw_sandbox(self, cookie: int) -> None: ...

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None:
        """Keep the sandbox off the host path for good: a listener is bound to a device beside
        several networks, or has keys of TCP-MD5.  May come before publish_sandbox.
        """

    def put_remote(self, endpoint: Endpoint) -> None:
        """Enter an endpoint of any host into the directory (and the reverse map)."""

    def delete_remote(self, endpoint: Endpoint) -> None: ...

    def list_remotes(self) -> Iterable[Endpoint]:
        """All directory entries, each as an endpoint of one address and without names."""

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        """Whether its host's endpoint port was entered for another address since."""

    def local_networks(self) -> set[Vni]:
        """Networks that an interface of this host is in."""

    def set_flood(self, vni: Vni, hosts: Sequence[IPv4Address], ifindexes: Sequence[int]) -> None:
        """Who gets the network's broadcasts: other hosts' underlay addresses, local veths."""

    def list_floods(self) -> Collection[Vni]:
        """Networks whose broadcasts anybody gets."""

    def refuse_hosts(self, hosts: Collection[IPv4Address]) -> None:
        """Let connect() to endpoints of these hosts (U), and no others, fail at once.

        Holds for a minute at least; ask again before.  Error: DatapathError.
        """

    def put_service(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]
                    ) -> None:
        """Let connections to this address go to any of these endpoints of the network.

        None of them: they are refused.  Idempotent.  Error: DatapathError.
        """

    def delete_service(self, vni: Vni, address: IPv4Address) -> None: ...

    def list_services(self) -> Collection[tuple[Vni, IPv4Address]]:
        """All services' addresses, with their networks."""

    def counters(self) -> dict[str, int]:
        """Packets or connections per reason since the maps were made."""
