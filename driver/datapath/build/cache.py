"""Stores compiled programs in files, one for each digest of their inputs; reads those shipped.

A file that is not exactly what this module wrote is ignored.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from driver.datapath.build.child import compile_apart
from driver.datapath.build.encoding import decode, encode
from driver.datapath.build.unit_key import (
    UnknownCompilerError,
    check_compiler,
    text_key,
    unit_key,
)
from driver.datapath.code.compiled import Compiled
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.errors import DatapathError

log = logging.getLogger(__name__)

FOLDER = Path("/var/cache/slim")
KEPT = 8  # files; the most recently used ones
SHIPPED = "compiled"  # a folder beside that of the C text
_SUFFIX = ".json"
_LIMIT = 1 << 24  # bytes of a file; 200,000 is usual


def compiled_unit(kernel_folder: Path = KERNEL_FOLDER, headers: Path | None = None,
                  folder: Path = FOLDER) -> Compiled:
    """Return the programs, compiling them only if they are neither shipped nor cached.

    headers: see compile_unit.  Error: DatapathError, if they do not compile.
    """
    shipped = shipped_unit(kernel_folder)
    if shipped is not None:
        return shipped
    key = _key(kernel_folder)
    found = _cached(folder, key)
    if found is not None:
        return found
    log.info("compiling the programs")
    made = compile_apart(kernel_folder, headers)
    if key is not None and _key(kernel_folder) == key:  # nothing changed during compilation
        try:
            check_compiler()
            write(folder, key, made)
        except (OSError, UnknownCompilerError) as error:
            log.info("the next start has to compile, too: %s", error)
    return made


def kept_unit(kernel_folder: Path = KERNEL_FOLDER, folder: Path = FOLDER) -> Compiled | None:
    """Return the shipped or cached programs, None if a start would have to compile."""
    return shipped_unit(kernel_folder) or _cached(folder, _key(kernel_folder))


def shipped_unit(kernel_folder: Path = KERNEL_FOLDER) -> Compiled | None:
    """Return the programs that came compiled with this C text, beside its folder; None: none did.

    A root file system without a compiler has them (`ship`).
    """
    folder = kernel_folder.parent / SHIPPED
    return read(folder, text_key(kernel_folder)) if folder.exists() else None


def ship(folder: Path) -> None:
    """Write the programs of this checkout into a root file system.  Errors: DatapathError, OSError.

    folder: that of the driver there, beside whose `kernel` they are looked for.
    """
    write(folder / SHIPPED, text_key(KERNEL_FOLDER), compiled_unit())


def _key(kernel_folder: Path) -> str | None:
    try:
        return unit_key(kernel_folder)
    except (OSError, DatapathError, UnknownCompilerError) as error:
        log.info("it cannot be told whether the programs have been compiled before: %s", error)
        return None


def _cached(folder: Path, key: str | None) -> Compiled | None:
    return None if key is None else read(folder, key)


def read(folder: Path, key: str) -> Compiled | None:
    """Return the programs compiled for this digest; None: none, or none that can be trusted."""
    try:
        with _opened(folder) as folder_fd:
            name = key + _SUFFIX
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
            with os.fdopen(fd, "rb") as file:
                _check_owner(folder / name, os.fstat(fd))
                data = file.read(_LIMIT)
            found = decode(data, key)
            with suppress(OSError):  # marks it as used: see KEPT
                os.utime(name, dir_fd=folder_fd, follow_symlinks=False)
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is not used: %s", folder / (key + _SUFFIX), error)
        return None


def write(folder: Path, key: str, compiled: Compiled) -> None:
    """Write the file atomically, and remove the least recently used ones.  Error: OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with _opened(folder) as folder_fd:
        fd, temporary = tempfile.mkstemp(dir=folder)  # 0600
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(encode(key, compiled))
                file.flush()
                os.fsync(fd)
            os.rename(temporary, key + _SUFFIX, dst_dir_fd=folder_fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    _remove_old(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Yield a descriptor of the folder.  Error: OSError, also if others can write there."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _check_owner(folder, os.fstat(fd))
        yield fd
    finally:
        os.close(fd)


def _check_owner(path: Path, state: os.stat_result) -> None:
    """Refuse what others can write: its content runs in the kernel, so they could become root."""
    if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} may be written by others")


def _remove_old(folder: Path) -> None:
    """Remove old files, and what a killed writer left.  Others may do so at the same time."""
    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return 0

    for path in sorted(folder.iterdir(), key=used, reverse=True)[KEPT:]:
        with suppress(OSError):
            path.unlink()
