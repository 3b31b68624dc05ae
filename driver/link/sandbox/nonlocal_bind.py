"""Lets sockets of a namespace bind to an IPv6 address that no interface has: the host's own, U.

For IPv4 a local route is enough; for IPv6 the kernel asks for an address, which programs would
see, use and tell others, or for this setting.  Works in the calling thread's namespace.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from driver.errors import LinkError

_SETTING: Final = Path("/proc/sys/net/ipv6/ip_nonlocal_bind")
_NAME: Final = "net.ipv6.ip_nonlocal_bind"


def works() -> bool:
    """Tell whether this process can change it; a managed plugin's /proc/sys is read-only."""
    return os.access(_SETTING, os.W_OK)


def install() -> None:
    """Switch it on.  Error: LinkError."""
    if not missing():
        return
    try:
        _SETTING.write_text("1\n", encoding="ascii")
    except OSError as error:
        raise LinkError(f"{_NAME} cannot be set in a container: {error.strerror}") from error


def missing() -> str:
    """Name the setting if it is off; "": it is on."""
    try:
        return "" if _SETTING.read_text(encoding="ascii").strip() == "1" else _NAME
    except OSError:  # IPv6 is not in this kernel
        return _NAME


def remove() -> None:
    """Switch it off.  Does nothing if it is off, or cannot be changed."""
    if not missing() and works():
        _SETTING.write_text("0\n", encoding="ascii")
