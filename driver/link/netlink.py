"""Owns the opening of rtnetlink sockets and the translation of the kernel's refusals.

It must not know what is asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from driver.errors import LinkError

Route = Any  # pyroute2.IPRoute has no types

_DUMP_TRIES = 5
_ADDR_GEN_NONE = 1  # IN6_ADDR_GEN_MODE_NONE


@contextmanager
def open_route() -> Iterator[Route]:
    """Open a rtnetlink socket in the namespace of the calling thread (0.2 ms)."""
    # ext_ack: the kernel's own words for a refusal, not only an errno.
    with IPRoute(ext_ack=True) as route:
        yield route


@contextmanager
def step(what: str, *, ignore: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn a refusal inside the block into LinkError("<what>: <cause>").

    ignore: errno values that mean the wanted state is there already.
    """
    try:
        yield
    except NetlinkError as error:
        if error.code not in ignore:
            raise LinkError(f"{what}: {error.args[1]} (errno {error.code})") from error
    except OSError as error:
        if error.errno not in ignore:
            raise LinkError(f"{what}: {error}") from error


def dump(route: Route, method: str, **filters: object) -> tuple[Any, ...]:
    """Call one of the get_... methods again when a change went through the dump."""
    for _ in range(_DUMP_TRIES - 1):
        try:
            return tuple(getattr(route, method)(**filters))
        except NetlinkDumpInterrupted:
            continue
    return tuple(getattr(route, method)(**filters))


def refuse_own_addresses(route: Route, ifindex: int) -> None:
    """Keep the kernel from giving the interface an IPv6 link-local address.

    To be called before the first carrier, which is when it would.
    """
    # EAFNOSUPPORT: the host was booted without IPv6, so there is nothing to refuse.
    with step(f"IPv6 settings of interface {ifindex}", ignore=(errno.EAFNOSUPPORT,)):
        route.link("set", index=ifindex, IFLA_AF_SPEC={"attrs": [("AF_INET6", {
            "attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]})]})


def kind_of(link: Any) -> str | None:
    """"veth", "vxlan", ...; None for a device that no rtnl_link_ops made."""
    info = link.get_attr("IFLA_LINKINFO")
    return None if info is None else info.get_attr("IFLA_INFO_KIND")
