"""Decides which kernel maps outlive an upgrade of the driver: the layout's number and pin folder.

A map keeps its entries from layout to layout unless CHANGED_IN names it; a map named there starts
empty and is filled by handover.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from driver.errors import DatapathError

# Raise it whenever an older program could misread a map, or a newer program an older map, and when
# a map's size changes (objects.open_map refuses it then);
# tests/kernel/test_layout.py says when, and tests/kernel/layout.json what was.
LAYOUT = 2
# Layout -> maps whose meaning changed with it.
CHANGED_IN: Mapping[int, frozenset[str]] = {
    2: frozenset({"directory6"}),  # its ports are of endpoints that take IPv6 connections
}


@dataclass(frozen=True)
class Inheritance:
    """What the previous layout left: its folder, and the maps that cannot be taken over."""

    folder: Path
    changed: frozenset[str]
    cut_short: tuple[Path, ...] = ()  # of layouts in between, whose hand-over was interrupted


def pin_folder(bpffs: Path, layout: int = LAYOUT) -> Path:
    """Return the folder where maps and links are pinned; its path has the layout's number."""
    return bpffs / "slim" / f"v{layout}"


def inherit(bpffs: Path, layout: int = LAYOUT,
            changed_in: Mapping[int, frozenset[str]] = CHANGED_IN) -> Inheritance | None:
    """Pin an older layout's maps and links in this one's folder, too, except for changed maps.

    Until discard() removes the older folder, its programs and ours share these maps.
    Returns None if there is no older layout.  Error: DatapathError, if a newer slim has run here.
    """
    found = {int(match[1]): path for path in (bpffs / "slim").glob("v*")
             if (match := re.fullmatch(r"v(\d+)", path.name))}
    if newer := [number for number in found if number > layout]:
        raise DatapathError(
            f"a newer slim has run on this host: {found[max(newer)]} is not understood; start "
            "that one, or stop the containers on slim networks and run its `slim cleanup`")
    older = sorted(number for number in found if number < layout)
    if not older:
        return None
    # The oldest one's programs are running: a hand-over ends by removing the older folder.
    # Hand-overs to layouts in between were interrupted, and left maps half filled.
    before, *cut_short = older
    changed = frozenset().union(*(names for number, names in changed_in.items()
                                  if before < number <= layout))
    folder = pin_folder(bpffs, layout)
    folder.mkdir(parents=True, exist_ok=True)
    for pin in found[before].iterdir():
        ours = folder / pin.name
        if pin.name not in changed and not ours.exists():
            os.link(pin, ours)
    return Inheritance(found[before], changed, tuple(found[number] for number in cut_short))


def discard(inheritance: Inheritance) -> None:
    """Remove the older folders: shared maps stay, the others go with their last program."""
    for folder in (*inheritance.cut_short, inheritance.folder):
        for pin in folder.iterdir():
            pin.unlink(missing_ok=True)
        folder.rmdir()
