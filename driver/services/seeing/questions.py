"""Understands a question about a connection: who calls, whom, and in which network.

A target is a name, an id or an address, with a port or without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from driver.errors import InvalidArgument, NotFound
from driver.model import Endpoint, Vni
from driver.services.ports import Address, Attachment
from driver.services.seeing.roster import Resident, Roster
from driver.work.shown import some_of


@dataclass(frozen=True)
class Asking:
    """One question."""

    roster: Roster
    caller: Resident
    attachments: Sequence[Attachment] | None  # None: its sandbox is not finished
    cookie: int
    port: int

    def networks(self) -> str:
        """Name the networks that the caller is in."""
        return ", ".join(self.roster.network_name(each.vni) for each in self.caller.endpoints)

    def endpoint(self, vni: Vni) -> Endpoint:
        """Return the caller's endpoint in one of its networks."""
        return next(each for each in self.caller.endpoints if each.vni == vni)

    def attachment(self, vni: Vni) -> Attachment | None:
        """Return the same as the kernel has it."""
        return next((each for each in self.attachments or () if each.vni == vni), None)


@dataclass(frozen=True)
class To:
    """Where to."""

    vni: Vni | None  # None: in no network of the caller's
    address: Address
    service: Address | None = None  # that was asked for


def parse(text: str) -> tuple[str, int]:
    """Return a name or address, and the port; 0: none is given.  Error: InvalidArgument."""
    name, port = text, ""
    if text.startswith("["):
        name, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise InvalidArgument(f"{text!r} is not understood: an IPv6 address with a port is "
                                  "[ADDRESS]:PORT")
        port = port[1:] if port else ""
    elif text.count(":") == 1:
        name, _, port = text.partition(":")
    has_port = bool(port) or text.endswith(":")
    if has_port and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise InvalidArgument(f"{port!r} is no port: ports are 1 to 65535")
    if not name:
        raise InvalidArgument("which container or address? Write NAME:PORT or ADDRESS:PORT")
    return name, int(port or 0)


def find_caller(roster: Roster, text: str) -> Resident:
    """Return the container that calls, which must be here.  Errors: NotFound, Conflict."""
    try:
        return roster.resident(text)
    except NotFound:
        elsewhere = roster.hosts_of(text)
        if elsewhere:
            raise NotFound(f"container {text!r} is on {some_of(elsewhere, ', ')}: type it "
                           "there") from None
        raise


def find_addresses(asking: Asking, text: str) -> list[tuple[Vni | None, Address]]:
    """Return the addresses meant, IPv4 first, each with the network in which it is reached.

    Error: NotFound.
    """
    endpoints = asking.caller.endpoints
    try:
        address = ip_address(text)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return [(next((endpoint.vni for endpoint in endpoints
                       for each in (endpoint.address, endpoint.address6)
                       if each is not None and address in each.network), None), address)]
    found = [(endpoint.vni, address) for endpoint in endpoints
             for address in asking.roster.find(endpoint.vni, text)]
    if found:
        own = {each.vni: {4: each.address, 6: each.address6} for each in endpoints}
        both = [(vni, address) for vni, address in found if own[vni][address.version] is not None]
        return [*sorted(both, key=lambda each: each[1].version)] or [*found[:1]]
    elsewhere = [(None, address) for network in asking.roster.networks
                 for address in asking.roster.find(network.vni, text)]
    if elsewhere:
        return [*elsewhere[:1]]
    raise NotFound(f"no container {text!r} is known in the networks of {asking.caller.name}, on "
                   "any host: `slim names` lists those with a name; an address works, too")
