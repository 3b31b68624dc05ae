"""What nftables' tables in a namespace hold (family ip), by the kernel's own word."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from pyroute2.nftables.main import NFTables

from driver.link.netlink.names import SANDBOX_TABLE
from tests.support.world.netns import Netns


def rules(namespace: Netns) -> dict[str, list[str]]:
    """By table: each rule, with its handle, which tells one from another that is made like it."""
    def inside() -> dict[str, list[str]]:
        with NFTables(nfgen_family=socket.AF_INET) as socket_:
            found: dict[str, list[str]] = {table.get_attr("NFTA_TABLE_NAME"): []
                                           for table in socket_.get_tables()}
            for rule in socket_.get_rules():
                found[rule.get_attr("NFTA_RULE_TABLE")].append(_text(rule))
        return found

    return namespace.call(inside)


def ours(namespace: Netns) -> list[str]:
    """What slim has put there."""
    return rules(namespace).get(SANDBOX_TABLE, [])


def tracked(namespace: Netns) -> int:
    """How many connections are tracked."""
    count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    return namespace.call(lambda: int(count.read_text()))


def _text(rule: Any) -> str:
    words = [rule.get_attr("NFTA_RULE_CHAIN"), str(rule.get_attr("NFTA_RULE_HANDLE"))]
    words += [each.get_attr("NFTA_EXPR_NAME") for each in rule.get_attr("NFTA_RULE_EXPRESSIONS")]
    note = bytes.fromhex((rule.get_attr("NFTA_RULE_USERDATA") or "").replace(":", ""))
    return f"{' '.join(words)} {note[2:-1].decode()}".rstrip()  # behind its kind and length
