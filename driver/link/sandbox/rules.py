"""Manages the host path's policy routing rules inside one sandbox, as values and in the kernel.

routes has the routes that they look up.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from driver.link.netlink.names import (
    HOST_PATH_MARK,
    HOST_PATH_MARK_MASK,
    HOST_PATH_TABLE,
    ROUTE_PROTOCOL,
    RULE_FROM_UNDERLAY,
    RULE_LOCAL,
    RULE_MARK,
    RULE_TO_UNDERLAY,
)
from driver.link.netlink.sockets import Changes, Route, dump, step
from driver.model import HostAddress

_TABLE_MAIN: Final = 254
_TABLE_LOCAL: Final = 255
_PROTOCOL_KERNEL: Final = 2  # RTPROT_KERNEL


@dataclass(frozen=True)
class Rule:
    """One rule "lookup table", of IPv4 or IPv6; None: the rule ignores that property."""

    priority: int
    table: int
    source: HostAddress | None = None
    destination: HostAddress | None = None
    mark: int | None = None
    input_interface: str | None = None
    protocol: int = ROUTE_PROTOCOL


FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NO_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host booted without IPv6
KERNELS_LOCAL: Final = Rule(0, _TABLE_LOCAL, protocol=_PROTOCOL_KERNEL)


def wanted(underlay: HostAddress) -> tuple[Rule, ...]:
    """Return the rules of a sandbox with the host path, in the order in which to add them.

    The local table's rule comes first: it must exist before the kernel's own is removed.  Over IPv6
    no socket is marked: the kernel would choose another source address for it.
    """
    marked = (Rule(RULE_MARK, HOST_PATH_TABLE, mark=HOST_PATH_MARK, input_interface="lo"),)
    return (
        Rule(RULE_LOCAL, _TABLE_LOCAL),
        Rule(RULE_TO_UNDERLAY, _TABLE_MAIN, destination=underlay, input_interface="lo"),
        *(marked if underlay.version == 4 else ()),
        Rule(RULE_FROM_UNDERLAY, HOST_PATH_TABLE, source=underlay, input_interface="lo"),
    )


def plan(changes: Changes, route: Route, underlay: HostAddress) -> set[Rule]:
    """Plan the additions that give the sandbox all rules of `wanted`.

    Returns the rules that these supersede, for remove_superseded: rules of an earlier underlay
    address, and the kernel's own for the local table.
    """
    family = FAMILIES[underlay.version]
    present, goal = _ours(route, family), wanted(underlay)
    for rule in goal:
        if rule not in present:
            _plan_addition(changes, rule, family)
    return present - set(goal)


def missing(route: Route, underlay: HostAddress) -> str:
    """Name a rule that differs from `wanted`; "": none."""
    present, goal = _ours(route, FAMILIES[underlay.version]), wanted(underlay)
    for rule in goal:
        if rule not in present:
            return _text(rule)
    return f"{_text(KERNELS_LOCAL)} is back" if present - set(goal) else ""


def remove_superseded(changes: Changes, superseded: set[Rule], version: int) -> None:
    """Plan the removal.  First apply what `plan` planned: without a rule for the local table
    nothing is delivered any more.  version: of IP, the underlay's."""
    for rule in superseded:
        _plan_removal(changes, rule, FAMILIES[version])


def remove(route: Route, version: int) -> bool:
    """Put the kernel's rule back and remove all of ours, of one version of IP; were there any?"""
    family = FAMILIES[version]
    present = _ours(route, family)
    if not present or present == {KERNELS_LOCAL}:
        return False
    changes = Changes(route)
    if KERNELS_LOCAL not in present:
        _plan_addition(changes, KERNELS_LOCAL, family)
        changes.apply()
    remove_superseded(changes, present - {KERNELS_LOCAL}, version)
    changes.apply()
    return True


def _ours(route: Route, family: int) -> set[Rule]:
    messages: tuple[Any, ...] = ()
    with step("read the rules", ignore=_NO_FAMILY):
        messages = dump(route, "get_rules", family=family)
    found = map(_decode, messages)
    return {rule for rule in found
            if rule.protocol == ROUTE_PROTOCOL or rule == KERNELS_LOCAL}


def _decode(message: Any) -> Rule:
    source = message.get_attr("FRA_SRC")
    destination = message.get_attr("FRA_DST")
    return Rule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        source=ip_address(source) if source else None,
        destination=ip_address(destination) if destination else None,
        mark=message.get_attr("FRA_FWMARK"),
        input_interface=message.get_attr("FRA_IIFNAME"),
        protocol=message.get_attr("FRA_PROTOCOL") or 0,
    )


def _plan_addition(changes: Changes, rule: Rule, family: int) -> None:
    with changes.step(f"add {_text(rule)}", ignore=(errno.EEXIST,)) as route:
        route.rule("add", **_arguments(rule, family))


def _plan_removal(changes: Changes, rule: Rule, family: int) -> None:
    with changes.step(f"delete {_text(rule)}", ignore=(errno.ENOENT,)) as route:
        route.rule("del", **_arguments(rule, family))


def _arguments(rule: Rule, family: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "family": family, "priority": rule.priority, "table": rule.table,
        "action": "FR_ACT_TO_TBL", "protocol": rule.protocol,
    }
    if rule.source is not None:
        arguments |= {"src": str(rule.source), "src_len": rule.source.max_prefixlen}
    if rule.destination is not None:
        arguments |= {"dst": str(rule.destination),
                      "dst_len": rule.destination.max_prefixlen}
    if rule.mark is not None:
        arguments |= {"fwmark": rule.mark, "fwmask": HOST_PATH_MARK_MASK}
    if rule.input_interface is not None:
        arguments |= {"iifname": rule.input_interface}
    return arguments


def _text(rule: Rule) -> str:
    return f"rule {rule.priority} (lookup {rule.table})"
