"""Names the hosts, networks and containers that packets are between, and what maps say of them.

    container ME ---- MY_VETH ----+                                   +---- container FAR
    container NEAR -- NEAR_VETH --+ host HOST --- WIRE --- OTHER_HOST +---- of network 1
    container ALIEN - ALIEN_VETH -+   of network 2

Each has an endpoint port (..._PORT) by which the wire knows it.  STRAY_VETH is an interface that is
no endpoint's.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from tests.kernel.packets.case import Entry, Value
from tests.kernel.packets.packets import CONTAINER_MAC

# Interfaces of the namespace; harness.py makes them.
WIRE, VXLAN, MY_VETH, NEAR_VETH, ALIEN_VETH, STRAY_VETH = range(11, 17)
NO_INTERFACE = 99
WIRE_MAC, NEAR_MAC, FAR_MAC = b"\x02\0\0\0\0\x11", b"\x02\0\0\0\0\x03", b"\x02\0\0\0\0\x04"

HOST, OTHER_HOST, THIRD_HOST, STRANGER = (f"192.0.2.{n}" for n in (1, 2, 3, 200))
BEHIND_GATEWAY, GATEWAY = "198.51.100.9", "192.0.2.254"
BEHIND_GATEWAY6, NO_ROUTE = "203.0.113.9", "192.88.99.1"

ME, NEAR, FAR, ALIEN, GONE, NOBODY = (f"10.32.0.{n}" for n in (2, 3, 4, 7, 50, 99))
ME6, NEAR6, FAR6, GONE6, NOBODY6 = (f"fd00:32::{n}" for n in (2, 3, 4, 50, 99))
SUBNET_BROADCAST, BROADCAST, GROUP, GROUP6 = "10.32.255.255", "255.255.255.255", "239.1.2.3", (
    "ff05::1234")
VIP, EMPTY_VIP = "10.32.0.200", "10.32.0.201"

# PORT_LAST is below 65535, for its own row.
PORT_FIRST, PORT_LAST = 61000, 65000
MY_PORT, NEAR_PORT, FAR_PORT, ALIEN_PORT, FREE_PORT = 61002, 61003, 61004, 61007, 61009
UNKNOWN_PORT = 61099  # names nobody on OTHER_HOST
MINE, THEIRS = 0x5a1, 0x5a2  # sandboxes' cookies: of ME, of NEAR
SEEK = 0x5eec


def veth(ifindex: int, address: str, *, sandbox: int = 0, vni: int = 1, address6: str = "::"
         ) -> Entry:
    """Return what an interface's packets may claim to be."""
    return Entry("veths", ifindex, {"sandbox": sandbox, "vni": vni, "addr_be": address,
                                    "broadcast_be": SUBNET_BROADCAST, "addr6": address6})


def endpoint(address: str, ifindex: int, mac: bytes, vni: int = 1) -> Entry:
    """Return an endpoint of this host, of either family."""
    six = ":" in address
    return Entry("endpoints6" if six else "endpoints",
                 {"vni": vni, "addr" if six else "addr_be": address},
                 {"ifindex": ifindex, "mac": mac})


def remote(address: str, host: str, mac: bytes, vni: int = 1) -> Entry:
    """Return an endpoint of any host, as the directory knows it."""
    six = ":" in address
    return Entry("directory6" if six else "directory",
                 {"vni": vni, "addr" if six else "addr_be": address},
                 {"underlay_be": host, "mac": mac})


def port(number: int, address: str, sandbox: int, ifindex: int, *, assigned: int = 0) -> Entry:
    """Return who owns an endpoint port here."""
    return Entry("ports", number, {"sandbox": sandbox, "vni": 1, "addr_be": address,
                                   "ifindex": ifindex, "assigned": assigned})


def caller(host: str, number: int, address: str, vni: int = 1) -> Entry:
    """Return whom a host and an endpoint port name."""
    return Entry("reverse", {"underlay_be": host, "port_be": number},
                 {"vni": vni, "addr_be": address})


def takes_ipv6(sandbox: int, address6: str, vni: int = 1) -> Entry:
    """Return that a sandbox takes IPv6 connections on the host path, at this address."""
    attachment = (IPv6Address(address6).packed + b"\xff" * 8 + bytes(8)
                  + struct.pack("=I", vni) + struct.pack("!HH", MY_PORT, 0))
    return Entry("sandboxes6", sandbox, {
        "count": 1, "attachments": attachment.ljust(16 * len(attachment), b"\0")})


def caller6(address: str, address6: str, vni: int = 1) -> Entry:
    """Return by which IPv6 address an endpoint calls."""
    return Entry("addresses6", {"vni": vni, "addr_be": address}, {"words": address6})


def key(peer: str, peer_port: int, local_port: int) -> dict[str, Value]:
    """Return a connection's name."""
    return {"peer_be": peer, "peer_port_be": peer_port, "local_port_be": local_port}


def flow(peer: str, peer_port: int, local_port: int, **leaf: Value) -> Entry:
    """Return a connection of ME's, whose next hop is known."""
    return Entry("flows", key(peer, peer_port, local_port), {
        "sandbox": MINE, "ifindex": MY_VETH, "port_be": MY_PORT, "state": 2,
        "next_hop_be": peer, "next_hop_until_ns": FOREVER, **leaf})


def syn_of(peer: str, peer_port: int, local_port: int, **leaf: Value) -> Entry:
    """Return a SYN to ME that is let in and not answered yet."""
    return Entry("pending", key(peer, peer_port, local_port), {
        "sandbox": MINE, "vni": 1, "addr_be": ME, "peer_addr_be": FAR, "port_be": 80,
        "ifindex": MY_VETH, **leaf})


def next_hop(host: str, address: str | int, **leaf: Value) -> Entry:
    """Return the way to a host; address 0: the kernel has to find it for each packet."""
    return Entry("next_hops", host, {"addr_be": address, **leaf})


def attempt(address: str, ifindex: int = MY_VETH, vni: int = 1, **leaf: Value) -> Entry:
    """Return who has sent to an address that nobody has."""
    wide = address if ":" in address else f"::{address}"
    return Entry("attempts", {"vni": vni, "ifindex": ifindex, "addr": wide}, leaf)


def receiver(index: int, *, host: str | int = 0, ifindex: int = 0, vni: int = 1) -> Entry:
    """Return who gets a network's broadcasts."""
    return Entry("floods", {"vni": vni, "index": index},
                 {"underlay_be": host, "ifindex": ifindex})


FOREVER = 1 << 62  # of CLOCK_MONOTONIC

# In the maps of every case; a case's own entries come after these, in their place if need be.
WORLD = (
    veth(MY_VETH, ME, sandbox=MINE, address6=ME6),
    veth(NEAR_VETH, NEAR, sandbox=THEIRS, address6=NEAR6),
    veth(ALIEN_VETH, ALIEN, vni=2),
    endpoint(ME, MY_VETH, CONTAINER_MAC), endpoint(ME6, MY_VETH, CONTAINER_MAC),
    endpoint(NEAR, NEAR_VETH, NEAR_MAC), endpoint(NEAR6, NEAR_VETH, NEAR_MAC),
    endpoint(ALIEN, ALIEN_VETH, NEAR_MAC, vni=2),
    remote(ME, HOST, CONTAINER_MAC), remote(ME6, HOST, CONTAINER_MAC),
    remote(NEAR, HOST, NEAR_MAC), remote(NEAR6, HOST, NEAR_MAC),
    remote(FAR, OTHER_HOST, FAR_MAC), remote(FAR6, OTHER_HOST, FAR_MAC),
    remote(GONE, HOST, NEAR_MAC), remote(GONE6, HOST, NEAR_MAC),
    remote(ALIEN, HOST, NEAR_MAC, vni=2), remote(FAR, THIRD_HOST, FAR_MAC, vni=2),
    caller(HOST, MY_PORT, ME), caller(HOST, NEAR_PORT, NEAR),
    caller(OTHER_HOST, FAR_PORT, FAR), caller(OTHER_HOST, ALIEN_PORT, FAR, vni=2),
    port(MY_PORT, ME, MINE, MY_VETH), port(NEAR_PORT, NEAR, THEIRS, NEAR_VETH),
    receiver(0, host=OTHER_HOST), receiver(1, ifindex=NEAR_VETH), receiver(2, ifindex=MY_VETH),
    Entry("services", {"vni": 1, "addr_be": VIP}, {"generation": 1, "count": 2}),
    Entry("services", {"vni": 1, "addr_be": EMPTY_VIP}, {"generation": 1, "count": 0}),
)
