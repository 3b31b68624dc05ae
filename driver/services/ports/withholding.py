"""Sandboxes whose new connections stay off the host path, and what is seen inside them.

The kernel side is kernel/withheld.c; why it is done stands in docs/security.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Protocol

from driver.model import Endpoint, EndpointId
from driver.services.ports.links import Veth


class Why(StrEnum):
    """Reasons by their counters' names; of several the first one is counted."""

    SWITCHED_OFF = "switched_off"
    KEYS = "keys"
    BOUND_LISTENER = "bound_listener"
    USER_STACK = "user_stack"
    OWN_RULES = "own_rules"
    ROUTING_LOST = "routing_lost"


class Verdicts(Protocol):
    """The kernel's maps `withheld` and `notes`, by netns cookie.  All: DatapathError."""

    def withhold(self, cookie: int, why: Why) -> None:
        """Keep the sandbox's new connections off the host path, from now on."""

    def release(self, cookie: int) -> None:
        """Undo withhold, and what a program in the kernel has entered by itself."""

    def withheld(self) -> Collection[int]:
        """Cookies of all that are withheld, by whomever."""

    def notes(self) -> Mapping[int, frozenset[Why]]:
        """What the programs of each namespace have done; OWN_RULES: tables may have changed."""

    def notes_of(self, cookie: int) -> frozenset[Why]:
        """The same of one namespace."""

    def settle_rules(self, cookie: int) -> None:
        """Take the note of changed tables away: they are looked at next.  Others stay."""

    def forget_notes(self, keep: Collection[int]) -> None:
        """Remove what is old of namespaces that are none of these."""


@dataclass(frozen=True)
class Findings:
    """What a look inside a sandbox has shown."""

    missing: str = ""  # a rule, route or filter of ours that is not as it was set up
    lost_address: str = ""  # an endpoint's that its interface has no more
    own_rules: str = ""  # a rule of the packet filter that is neither Docker's nor slim's


class Inspector(Protocol):
    """Looks inside sandboxes."""

    def look(self, sandbox_key: str, members: Sequence[tuple[Endpoint, Veth]], *,
             underlay: IPv4Address, just_set_up: bool = False) -> Findings:
        """Compare it with what was set up; the first member carries the host path.

        just_set_up: that much need not be compared.

        Error: LinkError (it is gone, or an interface is not inside).
        """


class Watch(Protocol):
    """Tells when something changes inside sandboxes."""

    def add(self, sandbox_key: str) -> None:
        """Begin to watch.  Idempotent.  Error: LinkError."""

    def remove(self, sandbox_key: str) -> None:
        """End, and let go of the namespace."""

    def sweep(self) -> None:
        """Let go of namespaces that are no sandbox's any more: being watched keeps them."""


class Labels(Protocol):
    """What containers' labels say.  Never asked while a call of dockerd's is served."""

    def look(self) -> Mapping[EndpointId, str]:
        """Values of slim.host_path, of all endpoints whose container has that label.

        Error: EngineUnavailable.
        """
