"""Marks slim's interfaces with their owner, in their alias, which `ip link` shows.

The kernel's objects outlive the driver and its state folder, so a driver without that folder
recognises its host by them.
"""

from __future__ import annotations

import re
from typing import Final

from driver.model import EndpointId, HostId

ALIAS_MAX: Final = 255  # IFALIASZ - 1
_HOST: Final = re.compile(r"[0-9a-f]{32}")


def pair_alias(endpoint_id: EndpointId, owner: HostId | None) -> str:
    """Return the alias of a pair's host end."""
    return f"{endpoint_id} {owner}" if owner else endpoint_id


def pair_owner(alias: str | None) -> tuple[str | None, HostId | None]:
    """Parse a `pair_alias` into endpoint and host; None: absent, as with an earlier driver's."""
    if alias is None:
        return None, None
    endpoint_id, _, owner = alias.partition(" ")
    return endpoint_id, HostId(owner) if _HOST.fullmatch(owner) else None


def device_alias(owner: HostId, pins: str) -> str:
    """Return the alias of the VXLAN device.  pins: the folder of this host's pins.

    A path that is too long is left out.
    """
    alias = f"{owner} {pins}"
    return alias if len(alias.encode()) <= ALIAS_MAX else owner


def device_owner(alias: str | None) -> tuple[HostId | None, str]:
    """Parse a `device_alias` into host and pin folder; None, "": absent."""
    owner, _, pins = (alias or "").partition(" ")
    return (HostId(owner), pins) if _HOST.fullmatch(owner) else (None, "")
