"""Opens rtnetlink sockets, batches requests, and turns the kernel's refusals into LinkError.

Refusals carry the kernel's own words (ext_ack), not only an errno.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPBatch, IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from driver.errors import LinkError

Route = Any  # pyroute2.IPRoute has no types

_DUMP_TRIES = 5
_ADDR_GEN_NONE = 1  # IN6_ADDR_GEN_MODE_NONE


@contextmanager
def open_route() -> Iterator[Route]:
    """Open an rtnetlink socket in the namespace of the calling thread (0.2 ms)."""
    # ext_ack: the kernel explains a refusal in words, not only by an errno.
    with IPRoute(ext_ack=True) as route:
        yield route


@contextmanager
def step(what: str, *, ignore: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn a refusal inside the block into LinkError("<what>: <cause>").

    ignore: errno values which mean that the wanted state exists already.
    """
    try:
        yield
    except NetlinkError as error:
        if error.code not in ignore:
            raise LinkError(f"{what}: {error.args[1]} (errno {error.code})") from error
    except OSError as error:
        if error.errno not in ignore:
            raise LinkError(f"{what}: {error}") from error


@dataclass(frozen=True)
class _Change:
    what: str
    ignore: tuple[int, ...]
    message: Any


class _Collector(IPBatch):  # type: ignore[misc]
    """Builds requests as pyroute2 does, and keeps them instead of sending them."""

    collected: list[Any]

    def __init__(self) -> None:
        super().__init__()
        # Close two descriptors that nobody here waits on and no garbage collection would close.
        self.close()

    def nlm_request(self, msg: Any, msg_type: int, msg_flags: int, **_other: object) -> list[Any]:
        msg["header"]["type"], msg["header"]["flags"] = msg_type, msg_flags
        self.collected.append(msg)
        return []


class Changes:
    """Changes of one namespace, sent to the kernel with one system call.

    Each change takes the kernel's single configuration lock (rtnl), which dockerd holds for
    10 ms and more while it moves interfaces: changes sent one by one would each wait for it.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._collector = _Collector()
        self._changes: list[_Change] = []

    @contextmanager
    def step(self, what: str, *, ignore: tuple[int, ...] = ()) -> Iterator[Route]:
        """Plan the requests made on the yielded object.  what, ignore: as in function `step`."""
        self._collector.collected = []
        yield self._collector
        self._changes += [_Change(what, ignore, message) for message in self._collector.collected]

    def planned(self) -> str:
        """Return what would be changed first; "": nothing."""
        return self._changes[0].what if self._changes else ""

    def apply(self) -> None:
        """Send the planned changes in order; the kernel tries each, even if others fail.

        Error: LinkError, for the first that failed.
        """
        changes, self._changes = self._changes, []
        if not changes:
            return
        answers = self._route.nlm_request_batch([change.message for change in changes],
                                                noraise=True)
        by_sequence = {change.message["header"]["sequence_number"]: change for change in changes}
        for answer in answers:
            error, change = answer["header"]["error"], by_sequence[
                answer["header"]["sequence_number"]]
            if error is not None:
                with step(change.what, ignore=change.ignore):
                    raise error


def dump(route: Route, method: str, **filters: object) -> tuple[Any, ...]:
    """Call one of the get_... methods; repeat it if a change interrupted the dump."""
    for _ in range(_DUMP_TRIES - 1):
        try:
            return tuple(getattr(route, method)(**filters))
        except NetlinkDumpInterrupted:
            continue
    return tuple(getattr(route, method)(**filters))


def plan_no_own_addresses(changes: Changes, name: str) -> None:
    """Keep the kernel from giving the interface an IPv6 link-local address.

    Apply it before the first carrier, which is when the kernel would add one.
    """
    # EAFNOSUPPORT: the host was booted without IPv6, so there is nothing to refuse.
    with changes.step(f"IPv6 settings of {name}", ignore=(errno.EAFNOSUPPORT,)) as planned:
        planned.link("set", ifname=name, IFLA_AF_SPEC={"attrs": [("AF_INET6", {
            "attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]})]})


def kind_of(link: Any) -> str | None:
    """Return "veth", "vxlan", ...; None for a device not created by rtnl_link_ops."""
    info = link.get_attr("IFLA_LINKINFO")
    return None if info is None else info.get_attr("IFLA_INFO_KIND")
