"""Builds the header tree that BCC compiles against: ours joined with the C library's UAPI.

See kernel/compat/README.md.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from driver.errors import DatapathError

UAPI = Path("/usr/include")
# By machine (uname -m): BCC's and Debian's names of the architecture's folder.
_ARCHITECTURES = {"x86_64": ("x86", "x86_64-linux-gnu"), "aarch64": ("arm64", "aarch64-linux-gnu")}


def api_folders() -> tuple[Path, Path, Path]:
    """Return the C library's folders of the kernel's API headers: linux, asm-generic, asm.

    Error: DatapathError if they are missing or the architecture is not supported.
    """
    _, triplet = _architecture()
    folders = UAPI / "linux", UAPI / "asm-generic", UAPI / triplet / "asm"
    if not (folders[0] / "bpf.h").exists() or not folders[2].is_dir():
        raise DatapathError(f"kernel API headers are missing under {UAPI}: install linux-libc-dev")
    return folders


def _architecture() -> tuple[str, str]:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise DatapathError(f"no header layout is known for a {machine} machine; known: "
                            f"{', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[machine]


@contextmanager
def header_tree(kernel_folder: Path, tree: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder for BCC_KERNEL_SOURCE, made of symlinks; only compiling needs it.

    tree: where to create it, replacing what a killed caller left there; None: a new folder in /tmp.
    Error: DatapathError, see api_folders.
    """
    linux, generic, asm = api_folders()
    arch, _ = _architecture()
    if tree is None:
        tree = Path(mkdtemp(prefix="slim-headers-"))
    else:
        shutil.rmtree(tree, ignore_errors=True)
    try:
        shutil.copytree(kernel_folder / "compat" / "include", tree / "include",
                        dirs_exist_ok=True)
        uapi = tree / "include" / "uapi"
        for entry in linux.iterdir():
            if not (uapi / "linux" / entry.name).exists():
                (uapi / "linux" / entry.name).symlink_to(entry)
        (uapi / "asm-generic").symlink_to(generic)
        arch_uapi = tree / "arch" / arch / "include" / "uapi"
        arch_uapi.mkdir(parents=True)
        (arch_uapi / "asm").symlink_to(asm)
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)
