"""Computes a fingerprint that distinguishes this machine from a copy of its disk.

It hashes the boot id, the namespace's cookie, the machine id and the underlay's MAC address.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from driver.link.netlink.netns import current_cookie
from driver.model import Fingerprint

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINE: Final = Path("/etc/machine-id")


def fingerprint(mac: str) -> Fingerprint:
    """Return this machine's fingerprint, in the calling thread's namespace; mac: the underlay's."""
    return Fingerprint(boot=_hash(_read(_BOOT), str(current_cookie())),
                       machine=_hash(_read(_MACHINE), mac))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # a minimal system has no machine-id


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
