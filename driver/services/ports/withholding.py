"""Defines how sandboxes are kept off the host path, and what is seen inside them.

The kernel side is kernel/withheld.c; docs/security.md gives the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from driver.model import Endpoint, EndpointId, HostAddress
from driver.services.ports.links import Veth


class Why(StrEnum):
    """Reasons, named like their counters; if several apply, the first one is counted.

    IPV6_OPTIONS keeps off IPv6 only.
    """

    SWITCHED_OFF = "switched_off"
    KEYS = "keys"
    LISTENER_GROUP = "listener_group"
    BOUND_LISTENER = "bound_listener"
    USER_STACK = "user_stack"
    OWN_RULES = "own_rules"
    ROUTING_LOST = "routing_lost"
    IPV6_OPTIONS = "ipv6_options"


class Verdicts(Protocol):
    """The kernel's maps `withheld` and `notes`, by netns cookie.  All errors: DatapathError."""

    def withhold(self, cookie: int, why: Why) -> None:
        """Keep the sandbox's new connections off the host path, from now on."""

    def release(self, cookie: int) -> None:
        """Undo withhold, and what a kernel program has entered by itself."""

    def withheld(self) -> Collection[int]:
        """Return the cookies of all withheld sandboxes, whoever withholds them."""

    def notes(self) -> Mapping[int, frozenset[Why]]:
        """Return what each namespace's programs did; OWN_RULES: its tables may have changed."""

    def notes_of(self, cookie: int) -> frozenset[Why]:
        """Return the same for one namespace."""

    def settle_rules(self, cookie: int) -> None:
        """Remove the note of changed tables, which are inspected next.  Other notes stay.

        If there was one, callers' SYNs get no answer, and are sent again, until `withhold` or
        `release` says what becomes of the sandbox.
        """

    def forget_notes(self, keep: Collection[int]) -> None:
        """Remove old notes of all other namespaces."""


@dataclass(frozen=True)
class Findings:
    """The result of inspecting a sandbox."""

    missing: str = ""  # a rule, route or filter of ours that is not as it was set up
    lost_address: str = ""  # an endpoint's IPv4 address that its interface no longer has
    own_rules: str = ""  # a packet filter rule that is neither Docker's nor slim's
    lost_address6: str = ""  # as lost_address, for IPv6


class Inspector(Protocol):
    """Inspects sandboxes."""

    def look(self, sandbox_key: str, members: Sequence[tuple[Endpoint, Veth]], *,
             underlay: HostAddress | None, just_set_up: bool = False) -> Findings:
        """Compare a sandbox with what was set up; the first member carries the host path.

        underlay: None: there is no host path.  just_set_up: our own setup need not be compared.

        Error: LinkError (the sandbox is gone, or an interface is not inside).
        """


class Watch(Protocol):
    """Reports changes inside sandboxes."""

    def add(self, sandbox_key: str) -> None:
        """Start watching.  Idempotent.  Error: LinkError."""

    def remove(self, sandbox_key: str) -> None:
        """Stop watching and release the namespace."""

    def sweep(self) -> None:
        """Release namespaces that no sandbox has any more: watching keeps them alive."""


class Labels(Protocol):
    """Containers' labels.  Never used while a call of dockerd is being served."""

    def look(self) -> Mapping[EndpointId, str]:
        """Return the slim.host_path values of all endpoints whose container has that label.

        Error: EngineUnavailable.
        """
