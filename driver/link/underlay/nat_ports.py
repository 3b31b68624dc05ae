"""Builds the guard's rules that keep NAT off endpoint ports: no connection may leave with one.

Masquerading keeps a client's port, or takes any above 1023 if two clients have the same; answers to
an endpoint port go to the endpoint (from_wire), whatever NAT knows.  The rules do not depend on
whose NAT it is: they look at its result.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from driver.client_ports import PRIVILEGED, Ports
from driver.errors import LinkError
from driver.link.netlink import nft, nft_socket
from driver.link.netlink.names import GUARD_TABLE, GUARD_TRANSLATED
from driver.model import HostAddress

# Before all others' NAT (usually 100); the kernel takes none before its tracking (-200).
FIRST_OF_NAT: Final = -199
_REMEMBERED_MS: Final = 600_000  # after that, whether others still translate it is found out again
REMEMBERED_MAX: Final = 16384  # entries, 2 MB; further connections are left as they are
# nft's number of `ipv4_addr . ipv4_addr . inet_service` or of ipv6_addr, which only matters to what
# nft shows, and bytes.
_KEYS: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (7 << 12 | 7 << 6 | 13, 12), socket.AF_INET6: (8 << 12 | 8 << 6 | 13, 36)}
_LAST_PORT: Final = 65535


def remembered(family: int) -> nft.Message:
    """Return the set of (source before NAT, destination, its port) that others translate."""
    kind, length = _KEYS[family]
    return nft.new_set(
        GUARD_TABLE, GUARD_TRANSLATED, 2, key_type=kind, key_length=length,
        flags=("NFT_SET_TIMEOUT", "NFT_SET_EVAL"), more=[
            ("NFTA_SET_DESC", {"attrs": [("NFTA_SET_DESC_SIZE", REMEMBERED_MAX)]}),
            ("NFTA_SET_TIMEOUT", _REMEMBERED_MS)])


def recall(ifindex: int, underlay: HostAddress, clients: Ports) -> nft.Expressions:
    """Give remembered connections the same address ourselves, and a port of `clients`.

    They keep their own port if it is one of them and free.  ifindex, underlay: the device that they
    leave by, and this host's address there.  Ports below 1024 are left to others' NAT, which keeps
    them below 1024.
    """
    return [*nft.protocol(socket.IPPROTO_TCP), *nft.ports(0, PRIVILEGED, _LAST_PORT),
            *nft.leaves_by(ifindex), *_key(nft.load_source, nft.FAMILIES[underlay.version]),
            nft.in_set(GUARD_TRANSLATED, nft.WORDS[socket.AF_INET][0]),
            *nft.change_source(underlay, *clients)]


def refuse(ifindex: int, underlay: HostAddress, endpoints: Ports) -> nft.Expressions:
    """After all NAT: remember and drop a SYN to which NAT gave an endpoint port.

    Its sender repeats it after a second.  What cannot be remembered goes out as it is.  A program
    of the host itself that has asked for such a port keeps it.
    """
    return [*nft.protocol(socket.IPPROTO_TCP), *nft.ports(0, *endpoints),
            *nft.leaves_by(ifindex), *nft.opens_connection(),
            nft.load_source(family=nft.FAMILIES[underlay.version]), nft.equals(underlay),
            *nft.source_changed(), *_key(nft.load_first_source, nft.FAMILIES[underlay.version]),
            nft.remember(GUARD_TRANSLATED, nft.WORDS[socket.AF_INET][0]), *nft.drop()]


def works() -> None:
    """Test whether the kernel takes such a rule; leave nothing.  Error: LinkError, with advice."""
    probe = f"{GUARD_TABLE}-probe"
    try:
        nft_socket.commit(nft_socket.batch([
            *nft.emptied(probe), nft.chain(probe, "nat", nft.POSTROUTING, FIRST_OF_NAT, "nat"),
            nft.rule(probe, "nat", nft.change_source(IPv4Address("127.0.0.1"), 1, 1)),
            nft.table("del", probe)]), "a rule with snat")
    except LinkError as error:
        raise LinkError(f"{error}: without it there is no guard. modprobe nft_chain_nat nft_nat, "
                        "or a kernel with CONFIG_NFT_NAT and CONFIG_NFT_CT") from error


def _key(load_source: Callable[[int, int], nft.Expression], family: int) -> nft.Expressions:
    source, destination, port = nft.WORDS[family]
    return [load_source(source, family), nft.load_destination(destination, family),
            nft.load_destination_port(port)]
