"""Owns the refusal of subnets that the host itself has a route to: one of the two is unreachable.

It must not know how routes are read, nor ask Docker: dockerd waits for our answer meanwhile.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from driver.errors import Conflict
from driver.services.ports import RoutedNetwork

GATEWAY_BRIDGE = "docker_gwbridge"  # the way out of every container on a network of slim's
# What Docker takes bridges' subnets from, in this order, unless its settings say otherwise.
_DOCKERS_POOLS = (*(ip_network(f"172.{number}.0.0/16") for number in range(17, 32)),
                  *ip_network("192.168.0.0/16").subnets(new_prefix=20))
_TO_COME = f"{GATEWAY_BRIDGE} to come"  # longer than a device's name may be
_BRIDGE = re.compile(r"br-([0-9a-f]{12})")  # named by Docker after the network's id


def overlap(subnet: IPv4Network | IPv6Network, routed: Sequence[RoutedNetwork]
            ) -> RoutedNetwork | None:
    """Return the host's network that shares an address with `subnet`; of several the smallest."""
    found = [other for other in routed
             if other.subnet.version == subnet.version and other.subnet.overlaps(subnet)]
    return max(found, key=lambda other: other.subnet.prefixlen, default=None)


def refuse_overlap(subnet: IPv4Network | IPv6Network, routed: Sequence[RoutedNetwork]) -> None:
    """Error: Conflict, naming the other network, if this host has one that shares an address."""
    other = overlap(subnet, routed)
    if other is not None:
        raise Conflict(f"subnet {subnet} overlaps {describe(other)}; choose another --subnet, for "
                       "example 10.32.0.0/16, or remove that network first")


def bridge_to_come(routed: Sequence[RoutedNetwork]) -> Sequence[RoutedNetwork]:
    """Return the network of the bridge that Docker makes for the first container of slim's.

    Docker avoids what has a route, and what its own IPAM has given out; slim's pools are neither.
    """
    if any(other.device == GATEWAY_BRIDGE for other in routed):
        return ()
    free = (pool for pool in _DOCKERS_POOLS if overlap(pool, routed) is None)
    return [RoutedNetwork(pool, _TO_COME) for pool in itertools.islice(free, 1)]


def describe(network: RoutedNetwork) -> str:
    """Say which network it is, as its administrator finds it."""
    found = _BRIDGE.fullmatch(network.device)
    if found:
        where = f"{network.device} (Docker network {found[1]})"
    elif network.device == "docker0":
        where = "docker0 (Docker network bridge)"
    elif network.device == GATEWAY_BRIDGE:
        where = f"{GATEWAY_BRIDGE} (Docker's network of that name)"
    elif network.device == _TO_COME:
        return (f"{network.subnet}, which Docker gives to its network {GATEWAY_BRIDGE} when the "
                "first container starts on this host")
    else:
        where = network.device or "no device"
    return f"{network.subnet}, to which this host has a route over {where}"
