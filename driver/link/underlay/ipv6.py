"""Chooses the IPv6 address of the underlay among those of a device.

An address that changes by itself, or that another machine has, too, is none to be reached by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final

from driver.errors import LinkError
from driver.host_addresses import unfit

# IFA_F_...; an IPv6 address that is "secondary" is a temporary one (RFC 8981).
_TEMPORARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_KERNEL_HAS_IT: Final = Path("/proc/net/if_inet6")
_CONF: Final = Path("/proc/sys/net/ipv6/conf")


class TentativeError(LinkError):
    """The kernel still asks whether another machine has the address: for a second or two."""


def named(addresses: Sequence[Any], wanted: IPv6Address) -> int:
    """Return the ifindex of the interface that has the address.

    addresses: of family IPv6, as netlink's messages.  Errors: LinkError, TentativeError.
    """
    found = [each for each in addresses if _address(each) == wanted]
    if not found:
        raise LinkError(f"underlay: no interface of this host has the address {wanted}"
                        f"{_switched_off()}")
    _refuse(found[0])
    if _flags(found[0]) & _TEMPORARY:
        raise LinkError(f"underlay: {wanted} is a temporary address, which the kernel replaces "
                        "(RFC 8981): name one that stays")
    return int(found[0]["index"])


def only_one(addresses: Sequence[Any], ifindex: int, name: str) -> IPv6Address:
    """Return the one address of the interface that stays.  name: the interface's.

    Errors: LinkError (none, or several), TentativeError.
    """
    found = [each for each in addresses if each["index"] == ifindex and not unfit(_address(each))
             and not _flags(each) & (_TEMPORARY | _DEPRECATED)]
    sound = [each for each in found if not _flags(each) & (_DAD_FAILED | _TENTATIVE)]
    if not sound and found:
        _refuse(found[0])
    if not sound:
        raise LinkError(f"underlay: interface {name} has no IPv6 address that stays and that "
                        f"other hosts can reach{_switched_off(name)}")
    waiting = [each for each in found if _flags(each) & _TENTATIVE]
    if len(sound) + len(waiting) > 1:
        shown = ", ".join(str(each) for each in sorted(map(_address, sound + waiting)))
        raise LinkError(f"underlay: interface {name} has several IPv6 addresses ({shown}): name "
                        "one with --underlay")
    return _address(sound[0])


def default_interface(routes: Iterable[Any]) -> int:
    """Return the interface of the default route that the kernel would take.

    routes: default routes of the main table with an interface.  Error: LinkError.
    """
    best = min(routes, key=lambda each: each.get_attr("RTA_PRIORITY") or 0, default=None)
    if best is None:
        raise LinkError("underlay: this host has no IPv6 default route; name an address, or "
                        f"DEVICE/ipv6, with --underlay{_switched_off()}")
    paths = best.get_attr("RTA_MULTIPATH")
    return int(paths[0]["oif"] if paths else best.get_attr("RTA_OIF"))


def _refuse(found: Any) -> None:
    """Raise an error if the address is not, or not yet, this host's."""
    if _flags(found) & _DAD_FAILED:
        raise LinkError(f"underlay: another machine has the address {_address(found)}, too "
                        "(duplicate address detection)")
    if _flags(found) & _TENTATIVE:
        raise TentativeError(f"underlay: the kernel still asks whether another machine has the "
                             f"address {_address(found)} (duplicate address detection)")


def _address(found: Any) -> IPv6Address:
    # IFA_LOCAL: of addresses with a peer.
    return IPv6Address(found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS"))


def _flags(found: Any) -> int:
    return int(found.get_attr("IFA_FLAGS") or found["flags"])


def _switched_off(name: str = "all") -> str:
    if not _KERNEL_HAS_IT.exists():
        return "; this kernel has no IPv6 (ipv6.disable=1?)"
    try:
        off = (_CONF / name / "disable_ipv6").read_text(encoding="ascii").strip() != "0"
    except OSError:
        return ""
    return f"; IPv6 is switched off (net.ipv6.conf.{name}.disable_ipv6)" if off else ""
