"""Refuses subnets that the host itself has a route to: one of the two would be unreachable.

Nothing here asks Docker: dockerd is waiting for our answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from driver.errors import Conflict
from driver.services.ports import RoutedNetwork

GATEWAY_BRIDGE = "docker_gwbridge"  # the way out for every container on a slim network
# Where Docker takes bridges' subnets from, in this order, unless its settings say otherwise.
_DOCKERS_POOLS = (*(ip_network(f"172.{number}.0.0/16") for number in range(17, 32)),
                  *ip_network("192.168.0.0/16").subnets(new_prefix=20))
_TO_COME = f"{GATEWAY_BRIDGE} to come"  # longer than a device's name may be
_BRIDGE = re.compile(r"br-([0-9a-f]{12})")  # named by Docker after the network's id


def overlap(subnet: IPv4Network | IPv6Network, routed: Sequence[RoutedNetwork]
            ) -> RoutedNetwork | None:
    """Return the smallest host network that shares an address with `subnet`; None if none does."""
    found = [other for other in routed
             if other.subnet.version == subnet.version and other.subnet.overlaps(subnet)]
    return max(found, key=lambda other: other.subnet.prefixlen, default=None)


def refuse_overlap(subnet: IPv4Network | IPv6Network, routed: Sequence[RoutedNetwork]) -> None:
    """Raise Conflict, naming the network, if a network of this host shares an address with it."""
    other = overlap(subnet, routed)
    if other is not None:
        raise Conflict(f"subnet {subnet} overlaps {describe(other)}; choose another --subnet, for "
                       "example 10.32.0.0/16, or remove that network first")


def bridge_to_come(routed: Sequence[RoutedNetwork]) -> Sequence[RoutedNetwork]:
    """Return the network of the bridge that Docker creates for slim's first container.

    Docker avoids subnets that have a route or that its own IPAM has given out; slim's pools are
    neither.
    """
    if any(other.device == GATEWAY_BRIDGE for other in routed):
        return ()
    free = (pool for pool in _DOCKERS_POOLS if overlap(pool, routed) is None)
    return [RoutedNetwork(pool, _TO_COME) for pool in itertools.islice(free, 1)]


def describe(network: RoutedNetwork) -> str:
    """Describe the network in terms with which its administrator finds it."""
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
