"""Reads and writes hosts' addresses, IPv4 and IPv6, in the one form in which they are compared.

IPv6 addresses are as in RFC 5952, and stand in brackets where a port follows.
"""

from __future__ import annotations

from ipaddress import ip_address

from driver.errors import InvalidArgument
from driver.host_addresses import unfit
from driver.work.shown import at_port


def host_address(text: str) -> str:
    """Return an address at which other hosts reach one.  Error: ValueError."""
    found = ip_address(text)
    if reason := unfit(found):
        raise ValueError(reason)
    return str(found)


def parse_address(text: str) -> str:
    """Return an address as a person typed it, in brackets or not.  Error: InvalidArgument."""
    bare = text[1:-1] if text[:1] + text[-1:] == "[]" else text
    try:
        found = ip_address(bare)
    except ValueError:
        raise InvalidArgument(f"{text!r} is no IPv4 or IPv6 address: give one as 192.0.2.1 or "
                              "2001:db8::1") from None
    if reason := unfit(found):
        raise InvalidArgument(reason)
    return str(found)


def parse_member(text: str, port: int) -> str:
    """Return the address of a member as a person typed it, perhaps with its door's port.

    Error: InvalidArgument (no address, or another port).
    """
    address, _, last = text.rpartition(":")
    # A group of an IPv6 address has at most four digits.
    if last.isdecimal() and (len(last) > 4 or address.endswith("]") or ":" not in address):
        if last != str(port):
            raise InvalidArgument(f"{text!r}: hosts come in at port {port} only, so leave the port "
                                  "out")
        return parse_address(address)
    return parse_address(text)


def place(address: str, port: int) -> str:
    """Return address and port as they stand in a URL."""
    return at_port(address, port)


def family(address: str) -> str:
    """Return "IPv4" or "IPv6"."""
    return "IPv6" if ":" in address else "IPv4"


def in_order(address: str) -> tuple[int, int]:
    """Return what sorts addresses by number, IPv4 first."""
    found = ip_address(address)
    return found.version, int(found)
