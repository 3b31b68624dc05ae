"""Tests that every counter is documented, and that a test provokes it or it is excused here."""

from __future__ import annotations

import re
from pathlib import Path

from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.code.reasons import read_reasons
from driver.services.ports import Why

ROOT = KERNEL_FOLDER.parent
NOT_PROVOKED = {
    "storage_full": "the kernel must run out of memory for a socket's storage",
    "pending_full": "an LRU map makes room; only memory running out fills it",
    "option_no_room": "a SYN that is full takes a Fast Open cookie of 16 bytes, which no Linux "
                      "server hands out",
}


def test_every_reason_is_provoked_or_excused() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "netns").rglob("*.py"))
    reasons = {reason.name for reason in read_reasons()}
    assert {name for name in reasons if f'"{name}"' not in tests} == NOT_PROVOKED.keys()


def test_the_documentation_has_a_line_for_each_reason_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$",
                      Path(ROOT / "docs" / "counters.md").read_text(), re.MULTILINE)
    assert [row[:3] for row in rows] == [(r.name, r.kind, r.meaning) for r in read_reasons()]
    assert all(advice.strip() for *_, advice in rows)


def test_every_reason_is_counted_somewhere() -> None:
    programs = "".join(path.read_text() for path in KERNEL_FOLDER.glob("*.c"))
    counted = set(re.findall(r"REASON_(\w+)", programs))
    assert counted | set(Why) == {reason.name for reason in read_reasons()}  # Why: by their number
