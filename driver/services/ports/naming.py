"""Defines what the name server asks the use cases, and what they need of sandboxes for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol


class QuestionKind(Enum):
    """What a query asks for."""

    ADDRESS = auto()  # IPv4
    ADDRESS6 = auto()  # IPv6
    NAME = auto()  # of an address
    OTHER = auto()


@dataclass(frozen=True)
class Question:
    """One query."""

    kind: QuestionKind
    name: str  # in lower case, without the final dot
    address: IPv4Address | IPv6Address | None = None  # if its name is asked for


@dataclass(frozen=True)
class NameReply:
    """An answer; with neither: the name exists, and has nothing of that kind."""

    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    names: tuple[str, ...] = ()


class NameSandboxes(Protocol):
    """Sandboxes, as far as the name server needs them."""

    def open(self, sandbox_key: str) -> Any:
        """Open the name server's sockets there; queries come to them.  Error: LinkError."""

    def remove(self, sandbox_key: str) -> None:
        """Have queries go to Docker's name server only.  Idempotent.  Error: LinkError."""


class NameServers(Protocol):
    """The name servers of all sandboxes."""

    def add(self, sandbox_key: str, sockets: Any) -> None:
        """Serve a sandbox by sockets that were opened for it.  Returns at once."""

    def remove(self, sandbox_key: str) -> None:
        """Undo `add`.  Idempotent.  Returns at once."""
