"""Defines a fault that a test has found: what is wrong, on which ways, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, auto

from driver.model import HostId
from driver.services.ports import NO_HOST
from driver.work.shown import some_of


class Kind(IntEnum):
    """What is wrong; the worst first."""

    NO_DRIVER = auto()  # a host is on record, and no driver runs there
    NO_ANSWER = auto()  # a driver that is alive does not take part
    UNFINISHED = auto()  # it took part and wrote no row
    CUT = auto()  # nothing gets through
    NAT = auto()  # packets come with another source address
    UDP = auto()  # the overlay's packets do not arrive
    UDP_IN = auto()  # they arrive, and the receiver's packet filter drops them
    UDP_OUT = auto()  # the sender's packet filter drops them
    DAMAGED = auto()  # they arrive changed
    MTU = auto()  # large packets do not get through
    TCP = auto()  # SYNs of the host path do not arrive
    OPTION = auto()  # they arrive without slim's option
    PROBES = auto()  # the driver's own probes have found something that this test has not
    PORTS = auto()  # hosts have different VXLAN ports
    GUARD = auto()  # nothing keeps containers from speaking in the host's name
    ETCD = auto()  # etcd answers slowly
    CLOCK = auto()
    MTUS = auto()  # devices have different MTUs
    VERSIONS = auto()
    PING = auto()  # no answer to ICMP echo: only a hint
    FAMILIES = auto()  # underlays of IPv4 and IPv6, which do not reach each other: only a hint

    @property
    def shown(self) -> str:
        """Return its name as a word for the matrix and for programs."""
        return self.name.lower().replace("_", "-")

    @property
    def is_hint(self) -> bool:
        """Tell whether slim works all the same, or by design, so that it is no reason to fail."""
        return self in (Kind.PING, Kind.FAMILIES)


@dataclass(frozen=True)
class Fault:
    """One cause, however many ways it spoils."""

    kind: Kind
    text: str  # one line: what, between which hosts, and what to do
    ways: tuple[tuple[HostId, HostId], ...] = ()  # sender, receiver
    host: HostId = NO_HOST  # whose it is, if it is one host's alone


ABSENT = (Kind.NO_DRIVER, Kind.NO_ANSWER, Kind.UNFINISHED)  # ways to such a host are not tested


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """Return what sorts names as people do: host9 before host10."""
    return tuple((text, int(digits or 0))
                 for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name, re.ASCII))


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence: the first few, and how many more."""
    return some_of(sorted(set(names), key=natural), ", ")
