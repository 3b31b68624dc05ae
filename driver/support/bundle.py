"""Writes parts into a compressed archive that only root can read, whole or not at all."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from driver.errors import InvalidArgument, SlimError

PART_MOST: Final = 4_000_000  # bytes of one part; its end is kept, where logs have the newest
MODE: Final = 0o600


def collect(parts: Mapping[str, Callable[[], str]], clean: Callable[[str], str]
            ) -> dict[str, bytes]:
    """Return each part's text without secrets; one that fails says why, and keeps no other.

    parts: file name -> what makes its text.
    """
    found = {}
    for name, make in parts.items():
        try:
            text = make()
        except Exception as error:  # whatever is broken here is what somebody asks for help with
            text = f"not to be had: {type(error).__name__}: {error}\n"
        found[name] = _bounded(clean(text).encode(errors="replace"))
    return found


def _bounded(data: bytes) -> bytes:
    if len(data) <= PART_MOST:
        return data
    return b"[the beginning is cut off]\n" + data[-PART_MOST:]


def write(path: Path, folder: str, files: Mapping[str, bytes], made_s: float) -> int:
    """Write the archive; return its length in bytes.

    folder: what it unpacks to.  made_s: seconds since the epoch.
    Errors: InvalidArgument (there is such a file, or no such folder), SlimError (a full disk).
    """
    data = _archive(folder, files, made_s)
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, MODE)
    except FileExistsError:
        raise InvalidArgument(f"{path} is there already: name another file, or remove it") from None
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise SlimError(f"{path} cannot be written: {error.strerror}") from error
        raise
    return len(data)


def _archive(folder: str, files: Mapping[str, bytes], made_s: float) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), MODE, int(made_s)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=int(made_s))
