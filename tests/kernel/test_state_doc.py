"""Tests that docs/state.md has a line for every map and every pinned bpf_link."""

from __future__ import annotations

import re
from pathlib import Path

from driver.datapath.code.programs import CGROUP_PROGRAMS, SERVICE_PROGRAMS
from tests.kernel.test_layout import declared_maps


def test_maps_and_links_are_documented(project: Path) -> None:
    _, text = (project / "docs" / "state.md").read_text().split("## Kernel state")
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    maps = declared_maps().keys()
    links = {program.name for program in (*CGROUP_PROGRAMS, *SERVICE_PROGRAMS)}
    assert maps | links == named - {"netns-<cookie>"}
