"""Writes a file so that after a power cut it holds the old content or the new, never a part."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace the file at `path`.  mode: its rights, from the first byte on.  Error: OSError."""
    remove_half(path)  # perhaps with other rights
    temporary = half_of(path)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(file, "wb") as out:
        out.write(content.encode() if isinstance(content, str) else content)
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def remove_half(path: Path) -> None:
    """Remove what a `write` of the file at `path` that was killed has left.  Error: OSError."""
    half_of(path).unlink(missing_ok=True)


def half_of(path: Path) -> Path:
    """Return where a file is written that is to be at `path`."""
    return path.with_name(path.name + ".new")


def sync_folder(folder: Path) -> None:
    """Make what was renamed or removed in `folder` durable.  Error: OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
