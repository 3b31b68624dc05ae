"""Reads kernel/include/reasons.h: the counters' names, kinds and meanings.

The header is the only list; nothing here repeats it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from driver.datapath.code.programs import KERNEL_FOLDER

_ENTRY = re.compile(r'\bR\((\w+), (path|fallback|drop|error), "([^"]*)"\)')


@dataclass(frozen=True)
class Reason:
    """One counter; its index in the map is its position in the list."""

    name: str
    kind: str  # path, fallback, drop or error
    meaning: str


def read_reasons(kernel_folder: Path = KERNEL_FOLDER) -> tuple[Reason, ...]:
    """Return all reasons in the order of the kernel's enum."""
    text = (kernel_folder / "include" / "reasons.h").read_text()
    return tuple(Reason(*match.groups()) for match in _ENTRY.finditer(text))
