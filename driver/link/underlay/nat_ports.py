"""Owns the guard's rules that keep NAT off endpoint ports: no connection may leave with one.

Masquerading keeps a client's port, or takes any above 1023 where two clients have the same; the
answers to an endpoint's port are the endpoint's (from_wire), whatever NAT knows.  It must not
know whose NAT it is, nor ask: it sees what became of a connection.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import Final

from driver.client_ports import PRIVILEGED, Ports
from driver.errors import LinkError
from driver.link.netlink import nft, nft_socket
from driver.link.netlink.names import GUARD_TABLE, GUARD_TRANSLATED

# Before all others' NAT (100 as a rule); the kernel takes none before its tracking (-200).
FIRST_OF_NAT: Final = -199
_REMEMBERED_MS: Final = 600_000  # then it is seen anew whether that is translated
REMEMBERED_MAX: Final = 16384  # 2 MB; more are left as they are
# nft's number of `ipv4_addr . ipv4_addr . inet_service`, which only its command shows.
_KEY_TYPE: Final = 7 << 12 | 7 << 6 | 13
_KEY_LENGTH: Final = 12
_LAST_PORT: Final = 65535


def remembered() -> nft.Message:
    """The set: (source before NAT, destination, its port) of connections that others translate."""
    return nft.new_set(
        GUARD_TABLE, GUARD_TRANSLATED, 2, key_type=_KEY_TYPE, key_length=_KEY_LENGTH,
        flags=("NFT_SET_TIMEOUT", "NFT_SET_EVAL"), more=[
            ("NFTA_SET_DESC", {"attrs": [("NFTA_SET_DESC_SIZE", REMEMBERED_MAX)]}),
            ("NFTA_SET_TIMEOUT", _REMEMBERED_MS)])


def recall(ifindex: int, underlay: IPv4Address, clients: Ports) -> nft.Expressions:
    """What was remembered gets the same address from us, and a port of `clients`.

    Its own if it is one of them, and free.  ifindex, underlay: the device that it leaves by, and
    this host's address there.  Ports below 1024 stay with others' NAT, which keeps them there.
    """
    return [*nft.protocol(socket.IPPROTO_TCP), *nft.ports(0, PRIVILEGED, _LAST_PORT),
            *nft.leaves_by(ifindex), *_key(nft.load_source(nft.WORDS[0])),
            nft.in_set(GUARD_TRANSLATED, nft.WORDS[0]),
            *nft.change_source(underlay, *clients)]


def refuse(ifindex: int, underlay: IPv4Address, endpoints: Ports) -> nft.Expressions:
    """Behind all NAT: a SYN to which it gave an endpoint's port is remembered, and dropped.

    Its sender repeats it after a second.  What cannot be remembered goes out as it is.  A program
    of the host itself that has asked for such a port keeps it.
    """
    return [*nft.protocol(socket.IPPROTO_TCP), *nft.ports(0, *endpoints),
            *nft.leaves_by(ifindex), *nft.opens_connection(),
            nft.load_source(), nft.equals(underlay), *nft.source_changed(),
            *_key(nft.load_first_source(nft.WORDS[0])),
            nft.remember(GUARD_TRANSLATED, nft.WORDS[0]), *nft.drop()]


def works() -> None:
    """Ask the kernel for such a rule, leaving nothing.  Error: LinkError, with what to do."""
    probe = f"{GUARD_TABLE}-probe"
    try:
        nft_socket.commit(nft_socket.batch([
            *nft.emptied(probe), nft.chain(probe, "nat", nft.POSTROUTING, FIRST_OF_NAT, "nat"),
            nft.rule(probe, "nat", nft.change_source(IPv4Address("127.0.0.1"), 1, 1)),
            nft.table("del", probe)]), "a rule with snat")
    except LinkError as error:
        raise LinkError(f"{error}: without it there is no guard. modprobe nft_chain_nat nft_nat, "
                        "or a kernel with CONFIG_NFT_NAT and CONFIG_NFT_CT") from error


def _key(source: nft.Expression) -> nft.Expressions:
    return [source, nft.load_destination(nft.WORDS[1]), nft.load_destination_port(nft.WORDS[2])]
