"""Owns which kernel maps outlive an upgrade of the driver: the layout's number and its pin folder.

It must not know what is in a map.  A map keeps its entries from layout to layout unless it is
named in CHANGED_IN; what is named starts empty and is filled by handover.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from driver.errors import DatapathError

# To be raised whenever a program of before could misread a map, or the other way round, and when a
# map has another size (it is refused then: objects.open_map);
# tests/kernel/test_layout.py says when, and kernel/layout.json what was.
LAYOUT = 1
CHANGED_IN: Mapping[int, frozenset[str]] = {}  # layout -> maps that mean something else since


@dataclass(frozen=True)
class Inheritance:
    """What the layout before left: its folder, and the maps that cannot be taken over."""

    folder: Path
    changed: frozenset[str]
    cut_short: tuple[Path, ...] = ()  # of layouts in between, whose hand-over was cut short


def pin_folder(bpffs: Path, layout: int = LAYOUT) -> Path:
    """Return where maps and links are pinned: the layout's number is in the path."""
    return bpffs / "slim" / f"v{layout}"


def inherit(bpffs: Path, layout: int = LAYOUT,
            changed_in: Mapping[int, frozenset[str]] = CHANGED_IN) -> Inheritance | None:
    """Pin what an older layout left in this one's folder, too, but for maps that have changed.

    Until the older folder is removed (see discard) its programs and ours share these maps.
    Returns None if there is none.  Error: DatapathError, if a newer slim has run here.
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
    # The first one's programs are at work: a hand-over ends with the removal of its folder.
    # What is in between was cut short, and has maps that are half filled.
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
    """Remove the older folders: what we share stays, the rest goes with its last program."""
    for folder in (*inheritance.cut_short, inheritance.folder):
        for pin in folder.iterdir():
            pin.unlink(missing_ok=True)
        folder.rmdir()
