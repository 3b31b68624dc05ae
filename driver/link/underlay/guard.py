"""Manages the guard: nftables' table `slim`, which drops what others forward in this host's name.

Masquerading gives a bridge network's packets the host's address, and with it the host's word for
who is calling; it may also give them an endpoint port (nat_ports).  Packets of the host path never
pass these rules.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Final

from pyroute2.netlink.nfnetlink import nftsocket
from pyroute2.nftables.expressions import genex

from driver.client_ports import Ports
from driver.link.netlink import nft, nft_socket
from driver.link.netlink.names import GUARD_SET, GUARD_TABLE
from driver.link.underlay import nat_ports
from driver.model import HostAddress

# Before other tables' filters, and after their source NAT (100), which may choose the port.
_BEFORE_FILTERS, _BEHIND_NAT = -10, 300
# The hosts' set: nft's number of the type, which only matters to what its command shows, and bytes.
_KEYS: Final[dict[int, tuple[int, int]]] = {
    socket.AF_INET: (7, 4), socket.AF_INET6: (8, 16)}
_ELEMENTS: Final = 1000  # per message: an attribute has at most 64 KiB, an element 28 bytes


@dataclass(frozen=True)
class Guarded:
    """What is protected on this host."""

    underlay: HostAddress
    underlay_ifindex: int
    vxlan_port: int  # UDP
    endpoints: Ports  # TCP
    clients: Ports  # TCP; for connections to which NAT would give an endpoint port


class KernelGuard:
    """services.guarding.Guard in the kernel's packet filter.  Stateless; thread-safe.

    Its table is of the underlay's family, IPv4 or IPv6.
    """

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._family = nft.FAMILIES[guarded.underlay.version]
        self._other = nft.FAMILIES[4 if guarded.underlay.version == 6 else 6]

    def install(self, hosts: Collection[HostAddress]) -> None:
        """See guarding.Guard.  One transaction: there is no moment without the table."""
        kind, length = _KEYS[self._family]
        rules = _rules(self._guarded)
        messages = [*nft.emptied(GUARD_TABLE),
                    nft.new_set(GUARD_TABLE, GUARD_SET, 1, key_type=kind, key_length=length)]
        messages.append(nat_ports.remembered(self._family))
        for chain, hook, priority, type_ in _CHAINS:
            messages.append(nft.chain(GUARD_TABLE, chain, hook, priority, type_))
            messages += [nft.rule(GUARD_TABLE, chain, each) for each in rules[chain]]
        messages += _elements("new", hosts)
        self._commit(messages, "install the guard (nftables table slim)")
        # Of an earlier underlay; the other family's packets are no host's of this cluster.
        nft_socket.remove_table(GUARD_TABLE, "remove the guard of before", self._other)

    def change(self, added: Collection[HostAddress], removed: Collection[HostAddress]) -> None:
        """See guarding.Guard."""
        messages = [*_elements("new", added), *_elements("del", removed)]
        if messages:
            self._commit(messages, "change the guard's hosts")

    def _commit(self, messages: list[nft.Message], what: str) -> None:
        nft_socket.commit(nft_socket.batch(nft.of_family(self._family, messages)), what)

    def dropped(self) -> int | None:
        """See guarding.Guard."""
        # Only its own table: Docker's and others' rules may be tens of thousands.
        answer = nft_socket.answers(_question(self._family), "read the guard")
        counts = [_count(rule) for rule in nft.read_rules(answer)]
        return sum(counts) if len(counts) == _RULES else None


def packet_filter_works() -> None:
    """Test whether the kernel has tables and NAT.  Error: LinkError, saying what is missing."""
    with nft_socket.opened("the guard needs the packet filter nf_tables") as socket_:
        socket_.get_tables()
    nat_ports.works()


def remove_guard() -> None:
    """Remove the table.  Does nothing if it is absent.  Error: LinkError."""
    for family in _KEYS:
        nft_socket.remove_table(GUARD_TABLE, "remove the guard", family)


_CHAINS: Final = (("input", nft.INPUT, _BEFORE_FILTERS, "filter"),
                  ("forward", nft.FORWARD, _BEFORE_FILTERS, "filter"),
                  ("translation", nft.POSTROUTING, nat_ports.FIRST_OF_NAT, "nat"),
                  ("postrouting", nft.POSTROUTING, _BEHIND_NAT, "filter"))
_RULES: Final = 6


def _rules(guarded: Guarded) -> dict[str, list[nft.Expressions]]:
    vxlan = [*nft.protocol(socket.IPPROTO_UDP), *nft.port(2, guarded.vxlan_port)]
    # Against senders who can use a peer's source address to one of the host's other interfaces.
    from_elsewhere = [*nft.interface(nft.UNEQUAL, guarded.underlay_ifindex), *vxlan, *_drop()]
    to_peer = [nft.load_destination(family=nft.FAMILIES[guarded.underlay.version]),
               nft.in_set(GUARD_SET)]
    ports = guarded.endpoints
    way_out = guarded.underlay_ifindex, guarded.underlay
    return {
        "input": [from_elsewhere],
        "forward": [
            [*to_peer, *vxlan, *_drop()],
            [*to_peer, *nft.protocol(socket.IPPROTO_TCP), *nft.ports(2, *ports), *_drop()]],
        "translation": [nat_ports.recall(*way_out, guarded.clients)],
        "postrouting": [
            nat_ports.refuse(*way_out, ports),
            # What this host itself sends came in by no interface (0).
            [*nft.interface(nft.UNEQUAL, 0), *to_peer,
             *nft.protocol(socket.IPPROTO_TCP), *nft.ports(0, *ports), *_drop()]],
    }


def _drop() -> nft.Expressions:
    return [genex("counter", {}), *nft.drop()]


def _count(rule: nft.Message) -> int:
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        if expression.get_attr("NFTA_EXPR_NAME") == "counter":
            return int(expression.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS"))
    return 0


def _elements(verb: str, hosts: Collection[HostAddress]) -> list[nft.Message]:
    every = list(hosts)
    return [nft.message(nftsocket.nft_set_elem_list_msg, verb, "SETELEM", [
        ("NFTA_SET_ELEM_LIST_TABLE", GUARD_TABLE), ("NFTA_SET_ELEM_LIST_SET", GUARD_SET),
        ("NFTA_SET_ELEM_LIST_ELEMENTS",
         [{"attrs": [("NFTA_SET_ELEM_KEY", nft.value(host.packed))]}
          for host in every[start:start + _ELEMENTS]])])
        for start in range(0, len(every), _ELEMENTS)]


@cache
def _question(family: int) -> bytes:
    return nft_socket.encode(*nft.of_family(family, [nft.rules_of(GUARD_TABLE)]))
