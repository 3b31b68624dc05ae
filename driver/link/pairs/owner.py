"""Owns how slim's interfaces say whose they are: in their alias, which `ip link` shows.

It must not know what is done about another host's.  The kernel's objects outlive the driver, and
its state folder, so they are what a driver without one knows its host by.
"""

from __future__ import annotations

import re
from typing import Final

from driver.model import EndpointId, HostId

ALIAS_MAX: Final = 255  # IFALIASZ - 1
_HOST: Final = re.compile(r"[0-9a-f]{32}")


def pair_alias(endpoint_id: EndpointId, owner: HostId | None) -> str:
    """Return what a pair's host end is marked with."""
    return f"{endpoint_id} {owner}" if owner else endpoint_id


def pair_owner(alias: str | None) -> tuple[str | None, HostId | None]:
    """Return endpoint and host from `pair_alias`; None: not said, as by a driver of before."""
    if alias is None:
        return None, None
    endpoint_id, _, owner = alias.partition(" ")
    return endpoint_id, HostId(owner) if _HOST.fullmatch(owner) else None


def device_alias(owner: HostId, pins: str) -> str:
    """Return what the VXLAN device is marked with; pins: the folder of this host's pins.

    A path that is too long is left out.
    """
    alias = f"{owner} {pins}"
    return alias if len(alias.encode()) <= ALIAS_MAX else owner


def device_owner(alias: str | None) -> tuple[HostId | None, str]:
    """Return host and folder of pins from `device_alias`; None, "": not said."""
    owner, _, pins = (alias or "").partition(" ")
    return (HostId(owner), pins) if _HOST.fullmatch(owner) else (None, "")
