"""Tests that what the documentation tells a user to type works for root on any system."""

from __future__ import annotations

import re
from pathlib import Path


def test_no_command_needs_sudo(project: Path) -> None:
    """A minimal Debian has none: "sudo make up" would end in "command not found"."""
    pages = [project / "README.md", project / "CONTRIBUTING.md", *project.glob("docs/**/*.md")]
    found = {page.name: re.findall(r"sudo (?!-s).*", page.read_text()) for page in pages}
    assert len(found) > 20
    assert {name: lines for name, lines in found.items() if lines} == {}
