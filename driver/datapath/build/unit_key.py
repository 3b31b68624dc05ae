"""Computes a digest of all compiler inputs: the same digest means the same compiled programs.

The inputs are the C text, the compiler's arguments, the compiler's own files and the kernel API's
headers.  The running kernel is not among them: nothing of it is used, and its version changes
nothing (a test compiles under another version's name).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from driver.datapath.build.compiling import FLAGS
from driver.datapath.build.headers import api_folders
from driver.datapath.code.programs import ALL_PROGRAMS, FILES

LOADER_CACHE = Path("/etc/ld.so.cache")  # where the loader finds libraries; format: …, 0, path, 0
LOADED = Path("/proc/self/maps")
_LIBRARY = r"/[^\0\n]*/lib(?:bcc|LLVM|clang)[^/\0\n]*"


class UnknownCompilerError(Exception):
    """It is unknown which compiler would be used, or another one was used."""


def unit_key(kernel_folder: Path) -> str:
    """Return the digest, hexadecimal; takes 10 ms.

    Files outside the project count by name, size and modification time, because reading them takes
    longer.  Errors: UnknownCompilerError; DatapathError, see api_folders; OSError, if a file cannot
    be read.
    """
    parts: list[object] = [text_key(kernel_folder)]
    for name in compiler_files():
        parts += (name, *_state(os.stat(name)))
    for folder in api_folders():
        for name, state in _files(str(folder)):
            parts += (name, *_state(state))
    return _digest(parts)


def text_key(kernel_folder: Path) -> str:
    """Return the digest of what is slim's own, hexadecimal: whatever compiles it, and wherever.

    Error: OSError.
    """
    parts: list[object] = [platform.machine(), *FLAGS, *FILES,
                           *(program.name for program in ALL_PROGRAMS)]
    for path in sorted(kernel_folder.rglob("*.[ch]")):
        parts += (path.relative_to(kernel_folder), path.read_text())
    return _digest(parts)


def _digest(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


def compiler_files() -> list[str]:
    """Return the files that BCC may consist of: its Python module, and libraries of any version.

    Errors: UnknownCompilerError, OSError.
    """
    python = importlib.util.find_spec("bcc")
    libraries = {os.fsdecode(path) for path in re.findall(
        rf"\0({_LIBRARY})(?=\0)".encode(), LOADER_CACHE.read_bytes())}
    if python is None or not python.origin or not any("/libbcc.so" in path for path in libraries):
        raise UnknownCompilerError("BCC is not where libraries are looked for")
    return [python.origin, *sorted(libraries)]


def check_compiler() -> None:
    """Check, after compiling, that compiler_files() names the libraries that were used.

    Errors: UnknownCompilerError, OSError.
    """
    known = {_identity(path) for path in compiler_files()}
    for path in set(re.findall(rf"(?m) ({_LIBRARY})$", LOADED.read_text())):
        if _identity(path) not in known:
            raise UnknownCompilerError(f"{path} is not where libraries are looked for")


def _identity(path: str) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            yield from _files(entry.path)
        else:
            yield entry.path, entry.stat()


def _state(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns
