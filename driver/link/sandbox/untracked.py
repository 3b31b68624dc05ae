"""Owns nftables' table `slim-sandbox` inside containers: the host path's packets are not tracked.

Docker's rules for its name server switch connection tracking and NAT on in every container, and
NAT takes a listener that was assigned to a packet (MPTCP's; see kernel/container.c) away from it.
It must not know namespaces: it works in that of the calling thread.
"""

from __future__ import annotations

from functools import cache, lru_cache
from ipaddress import IPv4Address
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import nft, nft_socket
from driver.link.netlink.names import SANDBOX_TABLE

_TABLE: Final = f"nftables table {SANDBOX_TABLE}"
_RAW: Final = -300  # NF_IP_PRI_RAW: before connection tracking (-200)


def install(underlay: IPv4Address) -> None:
    """Leave all packets to and from `underlay` alone.  Error: LinkError.

    All protocols: nothing but the host path's connections has this address here, and ICMP errors
    about one must not look invalid to a container's own rules.  Whatever the table held before
    is replaced in one transaction: at no moment are packets tracked again.
    """
    # Replacing a rule makes the kernel wait for 10 ms; a driver that starts finds it in each.
    if missing(underlay):
        nft_socket.commit(_rules(underlay), _TABLE)


def missing(underlay: IPv4Address) -> str:
    """Name what is not there of it; "": nothing.  Error: LinkError."""
    found = nft_socket.answers(_question(), _TABLE).count(nft.comment(_about(underlay)))
    return "" if found == len(_CHAINS) else _TABLE


def remove() -> None:
    """Take the table away, for whatever underlay it was made.  None there: nothing to do."""
    nft_socket.remove_table(SANDBOX_TABLE, f"remove {_TABLE}")


def works() -> None:
    """Ask the kernel for such a rule, leaving nothing.  Error: LinkError, with what to do."""
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
def _rules(underlay: IPv4Address) -> bytes:
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


def _about(underlay: IPv4Address) -> str:
    return f"host path, {underlay}"


def _notrack() -> nft.Expression:
    return {"attrs": [("NFTA_EXPR_NAME", "notrack")]}  # it has no options
