"""Makes a file that has no name until it is whole: who is killed before leaves nothing of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from driver.state import durable

_NO_SUCH_FILES: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)  # on this file system


@contextmanager
def made(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Yield a new file; at the end it has replaced the one at `path`.  Error: OSError.

    mode: its rights, from the first byte on.  Over an existing file, and on file systems without
    nameless files (NFS), it has the name <path>.new for a while: who is killed then leaves that,
    and the next one removes it.
    """
    half = durable.half_of(path)
    half.unlink(missing_ok=True)
    try:
        with _opened(path.parent, half, mode) as (out, has_name):
            yield out
            out.flush()
            os.fsync(out.fileno())
            if not has_name:
                _name(out.fileno(), path, half)
        if half.exists():
            half.rename(path)
        durable.sync_folder(path.parent)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


@contextmanager
def _opened(folder: Path, half: Path, mode: int) -> Iterator[tuple[IO[bytes], bool]]:
    """Open the file, and tell whether it has a name, which is `half`."""
    has_name = False
    try:
        opened = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in _NO_SUCH_FILES:
            raise
        opened, has_name = os.open(
            half, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), True
    with os.fdopen(opened, "w+b") as out:
        yield out, has_name


def _name(opened: int, path: Path, half: Path) -> None:
    """Give the file the name `path` if that is free, else `half`."""
    for name in (path, half):
        try:
            # A descriptor of a folder, which an absolute path needs none of, has Python call
            # linkat(), which alone follows the link.
            os.link(f"/proc/self/fd/{opened}", name, src_dir_fd=opened, follow_symlinks=True)
        except FileExistsError:
            if name == half:
                raise
        else:
            return
