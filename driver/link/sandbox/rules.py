"""Manages the host path's policy routing rules inside one sandbox, as values and in the kernel.

routes has the routes that they look up.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
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
from driver.link.netlink.sockets import Changes, Route, dump

_TABLE_MAIN: Final = 254
_TABLE_LOCAL: Final = 255
_PROTOCOL_KERNEL: Final = 2  # RTPROT_KERNEL


@dataclass(frozen=True)
class Rule:
    """One IPv4 rule "lookup table"; None: the rule ignores that property."""

    priority: int
    table: int
    source: IPv4Address | None = None
    destination: IPv4Address | None = None
    mark: int | None = None
    input_interface: str | None = None
    protocol: int = ROUTE_PROTOCOL


KERNELS_LOCAL: Final = Rule(0, _TABLE_LOCAL, protocol=_PROTOCOL_KERNEL)


def wanted(underlay: IPv4Address) -> tuple[Rule, ...]:
    """Return the rules of a sandbox with the host path, in the order in which to add them.

    The local table's rule comes first: it must exist before the kernel's own is removed.
    """
    return (
        Rule(RULE_LOCAL, _TABLE_LOCAL),
        Rule(RULE_TO_UNDERLAY, _TABLE_MAIN, destination=underlay, input_interface="lo"),
        Rule(RULE_MARK, HOST_PATH_TABLE, mark=HOST_PATH_MARK, input_interface="lo"),
        Rule(RULE_FROM_UNDERLAY, HOST_PATH_TABLE, source=underlay, input_interface="lo"),
    )


def plan(changes: Changes, route: Route, underlay: IPv4Address) -> set[Rule]:
    """Plan the additions that give the sandbox all rules of `wanted`.

    Returns the rules that these supersede, for remove_superseded: rules of an earlier underlay
    address, and the kernel's own for the local table.
    """
    present = _ours(route)
    goal = wanted(underlay)
    for rule in goal:
        if rule not in present:
            _plan_addition(changes, rule)
    return present - set(goal)


def missing(route: Route, underlay: IPv4Address) -> str:
    """Name a rule that differs from `wanted`; "": none."""
    present, goal = _ours(route), wanted(underlay)
    for rule in goal:
        if rule not in present:
            return _text(rule)
    return f"{_text(KERNELS_LOCAL)} is back" if present - set(goal) else ""


def remove_superseded(changes: Changes, superseded: set[Rule]) -> None:
    """Plan the removal.  First apply what `plan` planned: without a rule for the local table
    nothing is delivered any more."""
    for rule in superseded:
        _plan_removal(changes, rule)


def remove(route: Route) -> None:
    """Put the kernel's rule back and remove all of ours."""
    present = _ours(route)
    if not present or present == {KERNELS_LOCAL}:
        return
    changes = Changes(route)
    if KERNELS_LOCAL not in present:
        _plan_addition(changes, KERNELS_LOCAL)
        changes.apply()
    remove_superseded(changes, present - {KERNELS_LOCAL})
    changes.apply()


def _ours(route: Route) -> set[Rule]:
    found = (_decode(message) for message in dump(route, "get_rules", family=socket.AF_INET))
    return {rule for rule in found
            if rule.protocol == ROUTE_PROTOCOL or rule == KERNELS_LOCAL}


def _decode(message: Any) -> Rule:
    source = message.get_attr("FRA_SRC")
    destination = message.get_attr("FRA_DST")
    return Rule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        source=IPv4Address(source) if source else None,
        destination=IPv4Address(destination) if destination else None,
        mark=message.get_attr("FRA_FWMARK"),
        input_interface=message.get_attr("FRA_IIFNAME"),
        protocol=message.get_attr("FRA_PROTOCOL") or 0,
    )


def _plan_addition(changes: Changes, rule: Rule) -> None:
    with changes.step(f"add {_text(rule)}", ignore=(errno.EEXIST,)) as route:
        route.rule("add", **_arguments(rule))


def _plan_removal(changes: Changes, rule: Rule) -> None:
    with changes.step(f"delete {_text(rule)}", ignore=(errno.ENOENT,)) as route:
        route.rule("del", **_arguments(rule))


def _arguments(rule: Rule) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "family": socket.AF_INET, "priority": rule.priority, "table": rule.table,
        "action": "FR_ACT_TO_TBL", "protocol": rule.protocol,
    }
    if rule.source is not None:
        arguments |= {"src": str(rule.source), "src_len": 32}
    if rule.destination is not None:
        arguments |= {"dst": str(rule.destination), "dst_len": 32}
    if rule.mark is not None:
        arguments |= {"fwmark": rule.mark, "fwmask": HOST_PATH_MARK_MASK}
    if rule.input_interface is not None:
        arguments |= {"iifname": rule.input_interface}
    return arguments


def _text(rule: Rule) -> str:
    return f"rule {rule.priority} (lookup {rule.table})"
