"""Finds packet filter rules that a container's programs have made (nftables).

Rules about only IPv6 or ARP do not matter to the host path, nor do rules about loopback addresses,
such as Docker's DNS rules in every release.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.nftables.main import NFTables

from driver.errors import LinkError
from driver.link.netlink.names import SANDBOX_TABLE
from driver.link.sandbox.legacy_tables import own_legacy_rules

_INET, _IP, _ARP, _NETDEV, _BRIDGE, _IP6 = 1, 2, 3, 5, 7, 10  # NFPROTO_...
_WITHOUT_IPV4: Final = (_ARP, _IP6)
_POLICY_DROP: Final = 0
_SOURCE, _DESTINATION = 12, 16  # offsets in an IPv4 header
_LOOPBACK: Final = 127  # first byte of 127.0.0.0/8
_MATCHES: Final = ("payload", "cmp", "meta", "bitwise")  # they do nothing to a packet
_DUMP_TRIES: Final = 5


def find_own_rules() -> str:
    """Name a rule in the calling thread's namespace that may touch host path packets; "": none.

    Error: LinkError.
    """
    return _own_chains() or own_legacy_rules() or _virtual_servers()


def own_rules() -> str:
    """Name such a rule; what cannot be read counts as one.  "": there is none."""
    try:
        return find_own_rules()
    except LinkError as error:
        return str(error)


def _own_chains() -> str:
    """Check base chains' policies and own rules: other chains are reached only from them."""
    hooked = {}
    chains, rules = _read()
    for chain in chains:
        name = (chain["nfgen_family"], chain.get_attr("NFTA_CHAIN_TABLE"),
                chain.get_attr("NFTA_CHAIN_NAME"))
        if (chain.get_attr("NFTA_CHAIN_HOOK") is None or chain["nfgen_family"] in _WITHOUT_IPV4
                or name[1] == SANDBOX_TABLE):
            continue
        if chain.get_attr("NFTA_CHAIN_POLICY") == _POLICY_DROP:
            return f"nftables: table {name[1]}, chain {name[2]} drops by its policy"
        hooked[name] = chain
    for rule in rules:
        name = (rule["nfgen_family"], rule.get_attr("NFTA_RULE_TABLE"),
                rule.get_attr("NFTA_RULE_CHAIN"))
        if name in hooked and not is_about_loopback(rule.get_attr("NFTA_RULE_EXPRESSIONS") or ()):
            return f"nftables: table {name[1]}, chain {name[2]} has rules"
    return ""


def is_about_loopback(expressions: Sequence[Any]) -> bool:
    """Tell whether the rule ends without any effect unless an address is in 127.0.0.0/8."""
    loaded = False  # the expression before has loaded an address of the packet
    for expression in expressions:
        kind, data = expression.get_attr("NFTA_EXPR_NAME"), expression.get_attr("NFTA_EXPR_DATA")
        if kind not in _MATCHES:
            return False
        if kind == "cmp" and loaded and data.get_attr("NFTA_CMP_OP") == "NFT_CMP_EQ":
            value = data.get_attr("NFTA_CMP_DATA").get_attr("NFTA_DATA_VALUE")
            if value and value[0] == _LOOPBACK:
                return True
        if kind == "payload":
            loaded = (data.get_attr("NFTA_PAYLOAD_BASE") == "NFT_PAYLOAD_NETWORK_HEADER"
                      and data.get_attr("NFTA_PAYLOAD_OFFSET") in (_SOURCE, _DESTINATION))
        elif kind != "bitwise":  # `ip saddr 127.0.0.0/8` masks the address first
            loaded = False
    return False


def _read() -> tuple[Sequence[Any], Sequence[Any]]:
    for last in (*[False] * (_DUMP_TRIES - 1), True):
        try:
            with NFTables(nfgen_family=0) as socket_:  # 0: of all families
                return tuple(socket_.get_chains()), tuple(socket_.get_rules())
        except NetlinkDumpInterrupted as error:
            if last:
                raise LinkError(f"the container's nftables change all the time: {error}") from error
        except NetlinkError as error:
            raise LinkError(f"read the container's nftables: {error.args[1]}") from error
        except OSError as error:
            if error.errno == errno.EPROTONOSUPPORT:  # this kernel lacks nf_tables
                return (), ()
            raise LinkError(f"read the container's nftables: {error}") from error
    raise AssertionError


def _virtual_servers() -> str:
    """Find IPVS services: IPVS takes a service's packets before any socket does."""
    try:
        with open("/proc/thread-self/net/ip_vs", encoding="ascii") as table:
            found = any(line.startswith(("TCP", "UDP", "SCTP", "FWM")) for line in table)
    except OSError:
        return ""
    return "IPVS has services" if found else ""
