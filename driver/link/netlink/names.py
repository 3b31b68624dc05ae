"""Defines every name and number that slim gives to links, routing tables and rules.

No I/O, no netlink.
"""

from __future__ import annotations

from typing import Final

from driver.model import EndpointId

HOST_PREFIX: Final = "sl"
CONTAINER_PREFIX: Final = "sc"
# 11 of an endpoint id's 64 hex digits: 2 + 11 = 13 characters, IFNAMSIZ allows 15.  Two of
# a host's n endpoints share them with probability n^2 / 2^45: 3e-8 for a thousand.
_ID_DIGITS: Final = 11

PROBE_NAME: Final = "slim-probe"  # a pair created to see which kind the kernel has, and deleted
PROBE_PEER: Final = "slim-probe-peer"
VXLAN_NAME: Final = "slim-vxlan"
GUARD_TABLE: Final = "slim"  # nftables, family ip, or ip6 over an IPv6 underlay
GUARD_SET: Final = "hosts"
GUARD_TRANSLATED: Final = "translated"  # a set of the same table
SANDBOX_TABLE: Final = "slim-sandbox"  # nftables, family ip, inside containers

# Our numbers inside containers' namespaces, which usually nobody else uses; a container
# with NET_ADMIN may add its own, so these numbers are unusual rather than round.
HOST_PATH_TABLE: Final = 0x511D  # 20765
HOST_PATH_MARK: Final = 0x511D0000  # fwmark of sockets bound to a port only
HOST_PATH_MARK_MASK: Final = 0xFFFFFFFF  # the whole mark is compared
# The `protocol` of our routes and rules (/etc/iproute2/rt_protos has no 81): lets tear_down
# remove ours and nothing else.
ROUTE_PROTOCOL: Final = 81

RULE_FROM_UNDERLAY: Final = 10
RULE_MARK: Final = 11
RULE_TO_UNDERLAY: Final = 20
RULE_LOCAL: Final = 100  # the kernel's own rule 0, moved behind ours

# Priority of our tc filter; filters run in the order of their priority.  Not 1, which other
# tools take by default.
FILTER_PRIORITY: Final = 0x51  # 81
FILTER_HANDLE: Final = 1
SANDBOX_FILTER_NAME: Final = "slim_to_container"
NAMES_FILTER_NAME: Final = "slim_name_query"  # on lo inside containers

# Docker's name server and ours, inside containers.  The next three stand in kernel/resolve.c, too.
NAME_SERVER: Final = "127.0.0.11"
NAMES_PORT: Final = 54
NAMES_MARK: Final = 0x511E0000  # fwmark of what ours asks Docker's


def host_name(endpoint_id: EndpointId) -> str:
    """Return the name of the host's end of the endpoint's veth pair."""
    return HOST_PREFIX + endpoint_id[:_ID_DIGITS]


def container_name(endpoint_id: EndpointId) -> str:
    """Return the container's end's initial name (dockerd renames it to eth0, eth1, ...)."""
    return CONTAINER_PREFIX + endpoint_id[:_ID_DIGITS]


def is_host_name(name: str) -> bool:
    """Tell whether `name` has the form of the host's end of a slim pair."""
    digits = name.removeprefix(HOST_PREFIX)
    return (len(name) == len(HOST_PREFIX) + _ID_DIGITS and len(digits) == _ID_DIGITS
            and all(digit in "0123456789abcdef" for digit in digits))


def container_name_of(host: str) -> str:
    """Return the container's end's initial name, given the host's end's name."""
    return CONTAINER_PREFIX + host.removeprefix(HOST_PREFIX)
