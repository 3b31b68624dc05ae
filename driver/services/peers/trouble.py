"""Describes why the host path does not reach a peer, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from driver.model import HostAddress


class Kind(Enum):
    """What the probes have shown."""

    UNKNOWN = auto()  # found by an earlier driver
    DROPPED = auto()  # the host answers, but the SYNs do not arrive, or without their option
    REFUSED = auto()  # the SYNs are refused, and not by slim
    PARTLY = auto()  # the SYNs are answered at some endpoint ports only
    SILENT = auto()  # the host answers nothing at all


@dataclass(frozen=True)
class Trouble:
    """What is wrong with one peer."""

    kind: Kind
    ports: tuple[int, ...] = ()  # for PARTLY: those that do not answer

    def __str__(self) -> str:
        if self.kind is Kind.PARTLY:
            some = ", ".join(map(str, self.ports[:5])) + (", ..." if len(self.ports) > 5 else "")
            return f"its endpoint ports {some} are not reached, others are"
        return _SEEN[self.kind]


_SEEN = {
    Kind.UNKNOWN: "found by the driver before this one, not probed yet",
    Kind.DROPPED: "it answers pings, but no SYN of the host path",
    Kind.REFUSED: "SYNs of the host path are refused in its name",
    Kind.SILENT: "it answers nothing, neither pings nor SYNs",
}


def named(name: str, host: HostAddress) -> str:
    """Return a peer's designation for status and log; its name may be unknown."""
    return f"{name} ({host})" if name else str(host)


def advice(trouble: Trouble, ports: str) -> str:
    """Return the likely cause and what to do about it; `ports`: the range of endpoint ports."""
    if trouble.kind is Kind.SILENT:
        return "is it down, or the way to it cut?"
    return (f"is there a firewall between the hosts that lacks TCP {ports}, or a middlebox that "
            "drops or strips TCP option 254? (docs/operations.md, Firewalls)")
