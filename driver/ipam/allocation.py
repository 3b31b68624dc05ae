"""Chooses a free address: which addresses are usable, and which gap to take.

Pure.  Nothing here enumerates a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from random import Random

from driver.ipam.pools import IpNetwork

IpAddress = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Span:
    """Addresses from `first` to `last` (both inclusive) as numbers; empty if last < first."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """Count of addresses."""
        return max(0, self.last - self.first + 1)

    def window(self, start: int, size: int) -> Span:
        """Return up to `size` addresses from `start` on."""
        return Span(max(start, self.first), min(self.last, start + size - 1))


def usable(subnet: IpNetwork, sub_pool: IpNetwork | None = None) -> Span:
    """Return the addresses that may be given out: those inside `sub_pool`, if there is one.

    Excludes the subnet's network address (IPv6: the routers' anycast address, RFC 4291) and its
    IPv4 broadcast address.  A /31 has neither (RFC 3021), nor does a /127 (RFC 6164).
    """
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.prefixlen < subnet.max_prefixlen - 1:
        first += 1
        if isinstance(subnet, IPv4Network):
            last -= 1
    if sub_pool is not None:
        first = max(first, int(sub_pool.network_address))
        last = min(last, int(sub_pool.broadcast_address))
    return Span(first, last)


def to_address(subnet: IpNetwork, number: int) -> IpAddress:
    """Return the address with this number, in the subnet's address family."""
    return IPv4Address(number) if isinstance(subnet, IPv4Network) else IPv6Address(number)


def choose(span: Span, taken: Collection[int], random: Random, count: int = 1) -> list[int]:
    """Return up to `count` free addresses of `span` in random order.  `span` must be small.

    `taken` holds at least the taken addresses of `span`.  Random order keeps concurrent
    requesters from choosing the same address.
    """
    free = sorted({*range(span.first, span.last + 1)}.difference(taken))
    return random.sample(free, min(count, len(free)))


def lowest(span: Span, taken: Collection[int]) -> int | None:
    """Return the lowest free address of `span`."""
    number = span.first
    for n in sorted(n for n in taken if n >= span.first):
        if n != number:
            break
        number += 1
    return number if number <= span.last else None


def find_gap(span: Span, count_taken: Callable[[Span], int], most: int) -> Span | None:
    """Return a part of `span` with a free address, at most `most` long; None: all are taken.

    `count_taken` counts the taken addresses of a span; it is called about log2(size) times.
    """
    if count_taken(span) >= span.size:
        return None
    while span.size > most:
        middle = span.first + span.size // 2
        lower, upper = Span(span.first, middle - 1), Span(middle, span.last)
        # The addresses change while we count: a wrong turn ends in a full part, and the
        # caller retries.
        span = lower if count_taken(lower) < lower.size else upper
    return span
