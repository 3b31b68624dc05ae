"""Writes into docs/compatibility.md that `make test-all` has passed, when, and how long it took.

    python -m tests.lab.rig.passed STAMP      STAMP: a file that was touched when the run began

The Makefile runs it last, and only if everything before it has passed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

DOC = Path(__file__).resolve().parents[3] / "docs/compatibility.md"
LINE = re.compile(r"(?<=<!-- last run -->\n).*(?=<!-- end of last run -->\n)", re.S)


def line(began_s: float, now_s: float, tree: str) -> str:
    """Return the line to write."""
    date = time.strftime("%Y-%m-%d", time.gmtime(now_s))
    minutes = round((now_s - began_s) / 60)
    return f"`make test-all` last passed on {date}, {tree}, in {minutes} minutes.\n"


def tree(folder: Path) -> str:
    """Name the tested tree: its commit, and whether files differ from it."""
    # The checkout belongs to a user, and this is root.
    git = ["git", "-c", "safe.directory=*", "-C", str(folder)]
    try:
        commit = _said([*git, "rev-parse", "--short", "HEAD"])
        changed = _said([*git, "status", "--porcelain", "--", ".", f":!docs/{DOC.name}"])
    except (OSError, subprocess.CalledProcessError):
        return "in a tree without git"
    return f"at {commit}" + (" with changes" if changed else "")


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    written = line(os.stat(sys.argv[1]).st_mtime, time.time(), tree(DOC.parent.parent))
    DOC.write_text(LINE.sub(lambda _: written, DOC.read_text()))
    print(written, end="")
