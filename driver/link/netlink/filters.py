"""Manages tc filters on the ingress of interfaces: one bpf filter of ours per interface.

Others' filters and queueing disciplines stay.
"""

from __future__ import annotations

import errno
import socket

from driver.errors import LinkError
from driver.link.netlink import netns as namespaces
from driver.link.netlink.names import FILTER_HANDLE, FILTER_PRIORITY, is_host_name
from driver.link.netlink.sockets import Changes, Route, dump, open_route, step

_INGRESS = 0xFFFFFFF2  # TC_H_CLSACT, TC_H_MIN_INGRESS
_EGRESS = 0xFFFFFFF3
_CLSACT_HANDLE = 0xFFFF0000
_GONE = (errno.ENODEV, errno.ENOENT, errno.EINVAL)


def attach_ingress(ifindex: int, program_fd: int, name: str, netns: str | None = None) -> bool:
    """Make `program_fd` (sched_cls) the interface's ingress program; replaces an older one.

    name: the filter's name in `tc filter show`.  netns: path of the interface's namespace,
    None for the driver's own.  Replacing is atomic: no packet passes without a program.
    Returns True if this call created the clsact qdisc (see detach_ingress).
    """
    if netns is not None:
        return namespaces.run_in(netns, lambda: attach_ingress(ifindex, program_fd, name))
    with open_route() as route:
        made = True
        try:
            with step(f"clsact qdisc of interface {ifindex}"):
                _add_qdisc(route, ifindex)
        except LinkError as error:
            # EEXIST: clsact is there, or the older `ingress` qdisc, which takes our filter too.
            if getattr(error.__cause__, "code", None) != errno.EEXIST:
                raise
            made = False
        try:
            with step(f"filter {name} of interface {ifindex}"):
                _replace_filter(route, ifindex, program_fd, name)
        except LinkError:
            if made:
                _remove_qdisc(route, ifindex)
            raise
        return made


def plan_ingress(changes: Changes, ifindex: int, program_fd: int, name: str) -> None:
    """Plan attach_ingress, together with other changes in the interface's namespace."""
    with changes.step(f"clsact qdisc of interface {ifindex}", ignore=(errno.EEXIST,)) as route:
        _add_qdisc(route, ifindex)
    with changes.step(f"filter {name} of interface {ifindex}") as route:
        _replace_filter(route, ifindex, program_fd, name)


def detach_ingress(ifindex: int, netns: str | None = None, *, remove_qdisc: bool = False) -> None:
    """Remove our filter; do nothing if the interface is gone or has none.

    remove_qdisc: also remove clsact if no filter is left on it, for a caller that created it.
    """
    if netns is not None:
        namespaces.run_in(netns, lambda: detach_ingress(ifindex, remove_qdisc=remove_qdisc))
        return
    with open_route() as route:
        with step(f"remove filter of interface {ifindex}", ignore=_GONE):
            route.tc("del-filter", "bpf", index=ifindex, handle=FILTER_HANDLE, parent=_INGRESS,
                     prio=FILTER_PRIORITY)
        if remove_qdisc and not _filters(route, ifindex):
            _remove_qdisc(route, ifindex)


def detach_elsewhere(name: str, ifindex: int) -> None:
    """Remove the filter `name` from every interface of this namespace except `ifindex`.

    For a filter that belongs on one device only, after that device has changed.
    """
    for other, link in socket.if_nameindex():
        # is_host_name() skips the host's ends: usually hundreds, and none of them is meant.
        if other != ifindex and not is_host_name(link) and attached_ingress(other) == name:
            detach_ingress(other)


def attached_ingress(ifindex: int, netns: str | None = None) -> str | None:
    """Return the program name of our filter on the interface, None if there is none."""
    if netns is not None:
        return namespaces.run_in(netns, lambda: attached_ingress(ifindex))
    with open_route() as route:
        return find_ingress(route, ifindex)


def find_ingress(route: Route, ifindex: int) -> str | None:
    """Like attached_ingress, on an open socket."""
    for found in dump(route, "get_filters", index=ifindex, parent=_INGRESS):
        options = found.get_attr("TCA_OPTIONS")
        if (found["info"] >> 16 == FILTER_PRIORITY and found["handle"] == FILTER_HANDLE
                and options is not None):
            return str(options.get_attr("TCA_BPF_NAME"))
    return None


def others_filters(route: Route, ifindex: int) -> bool:
    """Tell whether the interface has a filter that is not slim's, in either direction."""
    return any(found["info"] >> 16 != FILTER_PRIORITY for parent in (_INGRESS, _EGRESS)
               for found in dump(route, "get_filters", index=ifindex, parent=parent))


def _add_qdisc(route: Route, ifindex: int) -> None:
    route.tc("add", "clsact", index=ifindex)


def _remove_qdisc(route: Route, ifindex: int) -> None:
    with step(f"remove clsact qdisc of interface {ifindex}", ignore=_GONE):
        route.tc("del", "clsact", index=ifindex, handle=_CLSACT_HANDLE)


def _replace_filter(route: Route, ifindex: int, program_fd: int, name: str) -> None:
    route.tc("replace-filter", "bpf", index=ifindex, handle=FILTER_HANDLE, parent=_INGRESS,
             prio=FILTER_PRIORITY, fd=program_fd, name=name, direct_action=True)


def _filters(route: Route, ifindex: int) -> bool:
    return any(dump(route, "get_filters", index=ifindex, parent=parent)
               for parent in (_INGRESS, _EGRESS))
