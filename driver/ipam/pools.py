"""Parses pools, finds overlaps and chooses the next automatic pool.

Pure functions on immutable values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from driver.errors import InvalidArgument

IpNetwork = IPv4Network | IPv6Network

# Source of automatic pools.  10.128.0.0/9 is clear of Docker's own defaults (172.17.0.0/12 and
# 192.168.0.0/16 locally, 10.0.0.0/8 from its low end in swarm); a /20 has 4,094 addresses, and
# there are 2,048 of them.  IPv6: a unique local prefix (RFC 4193), /64 each, 65,536 of them.
SUPERNET = "10.128.0.0/9"
POOL_PREFIXLEN = 20
SUPERNET6 = "fd73:6c69:6d00::/48"
POOL6_PREFIXLEN = 64


@dataclass(frozen=True)
class Supernet:
    """A block that automatic pools of one size are cut from."""

    block: IpNetwork
    prefixlen: int  # of each pool

    @property
    def count(self) -> int:
        """Count of pools in the block."""
        return 1 << (self.prefixlen - self.block.prefixlen)


@dataclass(frozen=True)
class Pool:
    """A checked request for a pool: the subnet, and the part that dynamic addresses come from."""

    subnet: IpNetwork
    sub_pool: IpNetwork | None


def parse_supernet(block: str, prefixlen: int) -> Supernet:
    """Check a supernet.  Error: InvalidArgument."""
    network = _parse(block, "supernet")
    if not network.prefixlen <= prefixlen <= network.max_prefixlen - 2:
        raise InvalidArgument(f"supernet {network}: pools of size /{prefixlen} do not fit; want "
                              f"/{network.prefixlen} to /{network.max_prefixlen - 2}")
    return Supernet(network, prefixlen)


def parse_pool(pool: str, sub_pool: str, *, v6: bool) -> Pool:
    """Check an explicit pool as the user wrote it; host bits are dropped.

    An IPv6 pool is accepted whatever `v6` says (a swarm manager always passes false).
    Error: InvalidArgument.
    """
    if not pool:
        raise InvalidArgument(f"sub-pool {sub_pool} without a pool: give --subnet, too")
    subnet = _parse(pool, "pool")
    if v6 and subnet.version == 4:
        raise InvalidArgument(f"pool {pool} is IPv4, but an IPv6 pool was requested")
    if subnet.prefixlen > subnet.max_prefixlen - 1:
        raise InvalidArgument(f"pool {pool} is too small: want /{subnet.max_prefixlen - 1} "
                              "or larger")
    if not subnet.prefixlen or subnet.is_multicast or subnet.is_loopback or subnet.is_link_local:
        raise InvalidArgument(f"pool {pool} is not for unicast addresses of a network; want a "
                              "private one, for example 10.32.0.0/16")
    if not sub_pool:
        return Pool(subnet, None)
    part = _parse(sub_pool, "sub-pool")
    if not contains(subnet, part):
        raise InvalidArgument(f"sub-pool {sub_pool} is not inside pool {subnet}")
    return Pool(subnet, part)


def contains(outer: IpNetwork, inner: IpNetwork) -> bool:
    """Return whether `inner` is part of `outer`, or the same."""
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def overlapping(network: IpNetwork, others: Iterable[IpNetwork]) -> IpNetwork | None:
    """Return the first of `others` that shares an address with `network`."""
    for other in others:
        if other.version == network.version and other.overlaps(network):
            return other
    return None


def choose_pool(supernets: Iterable[Supernet], avoid: Iterable[IpNetwork]) -> IpNetwork | None:
    """Return the lowest pool that overlaps nothing in `avoid`; None if there is none.

    A network in `avoid` that covers a whole supernet (such as a default route) leaves no pool.
    """
    avoided = list(avoid)
    for supernet in supernets:
        size = 1 << (supernet.block.max_prefixlen - supernet.prefixlen)
        block_first = int(supernet.block.network_address)
        block_last = int(supernet.block.broadcast_address)
        taken = sorted((int(n.network_address), int(n.broadcast_address)) for n in avoided
                       if n.version == supernet.block.version)
        candidate = block_first
        for first, last in taken:
            if last < candidate:
                continue
            if first >= candidate + size:
                break
            # The next pool boundary after the taken network.
            candidate = block_first + -(-(last + 1 - block_first) // size) * size
        if candidate + size - 1 <= block_last:
            return type(supernet.block)((candidate, supernet.prefixlen))
    return None


def _parse(text: str, what: str) -> IpNetwork:
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        return ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgument(
            f"{what} {text!r}: {error}; want ADDRESS/LENGTH, for example 10.32.0.0/16") from None
