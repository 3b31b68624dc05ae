"""Manages nftables' table `slim-sandbox` inside containers: it keeps packets untracked.

Docker's rules for its name server switch on connection tracking and NAT in every container, and NAT
takes away from a packet the listener that was assigned to it (MPTCP's; see kernel/container.c).  So
the host path's packets are always exempt.  Those with virtual addresses are as long as nobody has
rules there that could need tracking: it costs a connection on one host an eighth of its speed.
Over an IPv6 underlay the host path needs none of this: Docker's rules are for IPv4, and a container
with rules of its own is kept off.
Everything here works in the calling thread's namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from ipaddress import IPv4Address
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import nft, nft_socket
from driver.link.netlink.names import SANDBOX_TABLE
from driver.model import HostAddress

_TABLE: Final = f"nftables table {SANDBOX_TABLE}"
_OWN: Final = "own address, "
_RAW: Final = -300  # NF_IP_PRI_RAW: before connection tracking (-200)


def install(underlay: HostAddress) -> None:
    """Exempt all packets to and from `underlay`, and no others, from tracking.  Error: LinkError.

    All protocols: only host path connections have this address here, and ICMP errors about one must
    not look invalid to a container's own rules.  One transaction replaces whatever the table held
    before, so packets are never tracked in between.  It takes the kernel 10 ms if there was a rule.
    """
    nft_socket.commit(_rules(underlay), _TABLE)


def read() -> bytes:
    """Return the kernel's answer with the table's rules, for `missing` and `follow`.

    Error: LinkError.
    """
    return nft_socket.answers(_question(), _TABLE)


def follow(found: bytes, underlay: HostAddress, own: Sequence[IPv4Address]) -> None:
    """Exempt packets to and from the container's `own` addresses, too; none: only `underlay`'s.

    found: what `read` has returned.

    Whoever finds rules of somebody else's calls it with none: from then on all is tracked again.
    A connection that is open at that moment is tracked from its next packet on.  Error: LinkError.
    """
    if found.count(nft.comment(_about(underlay))) != len(_CHAINS):
        return  # that is put back first
    if not own:
        if _OWN.encode() in found:
            install(underlay)
        return
    lacking = [address for address in own
               if found.count(nft.comment(_about_own(address))) != len(_CHAINS)]
    if lacking:  # rules of an endpoint that has left do no harm
        nft_socket.commit(nft_socket.batch([
            nft.rule(SANDBOX_TABLE, chain, [load(), nft.equals(address), _notrack()],
                     _about_own(address))
            for chain, _, load in _CHAINS for address in lacking]), _TABLE)


def missing(found: bytes, underlay: HostAddress) -> str:
    """Name the table if any of its rules is missing from what `read` has returned; "": none is."""
    return "" if found.count(nft.comment(_about(underlay))) == len(_CHAINS) else _TABLE


def remove() -> None:
    """Remove the table, whatever underlay it was for.  Does nothing if it is absent."""
    nft_socket.remove_table(SANDBOX_TABLE, f"remove {_TABLE}")


def works() -> None:
    """Test whether the kernel takes such a rule; leave nothing.  Error: LinkError, with advice."""
    probe = f"{SANDBOX_TABLE}-probe"
    try:
        nft_socket.commit(nft_socket.batch([
            *nft.emptied(probe), nft.chain(probe, "output", nft.OUTPUT, _RAW),
            nft.rule(probe, "output", [_notrack()]), nft.table("del", probe)]),
            "a rule with notrack")
    except LinkError as error:
        raise LinkError(f"{error}: without it containers stay on the overlay path. modprobe "
                        "nft_ct, or a kernel with CONFIG_NF_TABLES and CONFIG_NFT_CT") from error


_CHAINS: Final = (("prerouting", nft.PREROUTING, nft.load_destination),
                  ("output", nft.OUTPUT, nft.load_source))


@lru_cache(maxsize=4)  # a driver has one underlay
def _rules(underlay: HostAddress) -> bytes:
    messages = [nft.table("new", SANDBOX_TABLE)]
    for chain, hook, load in _CHAINS:
        messages += [nft.chain(SANDBOX_TABLE, chain, hook, _RAW),
                     nft.no_rules(SANDBOX_TABLE, chain),
                     nft.rule(SANDBOX_TABLE, chain, [load(), nft.equals(underlay), _notrack()],
                              _about(underlay))]
    return nft_socket.batch(messages)


@cache
def _question() -> bytes:
    return nft_socket.encode(nft.rules_of(SANDBOX_TABLE))


def _about(underlay: HostAddress) -> str:
    return f"host path, {underlay}"


def _about_own(address: IPv4Address) -> str:
    return f"{_OWN}{address}"


def _notrack() -> nft.Expression:
    return {"attrs": [("NFTA_EXPR_NAME", "notrack")]}  # it has no options
