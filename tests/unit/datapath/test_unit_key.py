"""Tests that the digest changes with all that the compiler's output depends on, and only that."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from driver.datapath.build import headers, unit_key
from driver.datapath.build.unit_key import UnknownCompilerError, check_compiler, compiler_files
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.errors import DatapathError

MACHINE = platform.machine()


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KERNEL_FOLDER, tmp_path / "kernel"))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Headers of the kernel's API, for tests to change."""
    found = tmp_path / "include"
    for name in ("linux/bpf.h", "linux/netfilter/x.h", "asm-generic/y.h",
                 *(f"{triplet}/asm/z.h" for _, triplet in headers._ARCHITECTURES.values())):
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text("/* */")
    monkeypatch.setattr(headers, "UAPI", found)
    return found


def _touch(path: Path) -> None:
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def _lengthen(path: Path) -> None:
    before = path.stat()
    path.write_text(path.read_text() + "\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path, Path, pytest.MonkeyPatch], object]] = {
    "a program": lambda kernel, *_: (kernel / "icmp.c").write_text("/* */"),
    "our header": lambda kernel, *_: (kernel / "include/slim.h").write_text("/* */"),
    "compat": lambda kernel, *_: (kernel / "compat/include/linux/log2.h").write_text("/* */"),
    "a new header": lambda kernel, *_: (kernel / "compat/include/linux/new.h").write_text(""),
    "a header less": lambda kernel, *_: (kernel / "compat/include/linux/log2.h").unlink(),
    "API: size": lambda _, api, __: _lengthen(api / "linux/bpf.h"),
    "API: time": lambda _, api, __: _touch(api / "linux/bpf.h"),
    "API: below": lambda _, api, __: _touch(api / "linux/netfilter/x.h"),
    "API: generic": lambda _, api, __: _touch(api / "asm-generic/y.h"),
    "API: one more": lambda _, api, __: (api / "linux/new.h").write_text(""),
    "API: one less": lambda _, api, __: (api / "asm-generic/y.h").unlink(),
    "flags": lambda _, __, patch: patch.setattr(unit_key, "FLAGS", (*unit_key.FLAGS, "-g")),
    "files": lambda _, __, patch: patch.setattr(unit_key, "FILES", unit_key.FILES[::-1]),
    "programs": lambda _, __, patch: patch.setattr(unit_key, "ALL_PROGRAMS",
                                                   unit_key.ALL_PROGRAMS[1:]),
    "machine": lambda _, __, patch: patch.setattr(platform, "machine", lambda: next(
        name for name in headers._ARCHITECTURES if name != MACHINE)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_came_compiled_depends_on_what_is_ours(
        change: str, kernel: Path, api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = unit_key.text_key(kernel)
    assert unit_key.text_key(kernel) == before
    with monkeypatch.context() as patch:
        CHANGES[change](kernel, api, patch)
        assert (unit_key.text_key(kernel) == before) is change.startswith("API")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_makes_another(change: Callable[[Path, Path, pytest.MonkeyPatch], object],
                                kernel: Path, api: Path, monkeypatch: pytest.MonkeyPatch,
                                compiler: Path) -> None:
    before = unit_key.unit_key(kernel)
    assert unit_key.unit_key(kernel) == before
    with monkeypatch.context() as patch:
        change(kernel, api, patch)
        assert unit_key.unit_key(kernel) != before


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a compiler's files, for tests to change."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in ("libbcc.so.0", "libLLVM-14.so.1", "libclang-cpp.so.14", "libc.so.6", "bcc.py"):
        (folder / name).write_text(name)
    (folder / "ld.so.cache").write_bytes(
        b"glibc-ld.so.cache1.1\0" + b"".join(
            f"{path.name}\0{path}\0".encode() for path in sorted(folder.glob("lib*"))))

    class Spec:
        origin = str(folder / "bcc.py")

    monkeypatch.setattr(unit_key.importlib.util, "find_spec", lambda _name: Spec)
    monkeypatch.setattr(unit_key, "LOADER_CACHE", folder / "ld.so.cache")
    return folder


def test_the_compiler_is_its_libraries_and_its_python(compiler: Path) -> None:
    assert [Path(path).name for path in compiler_files()] == [
        "bcc.py", "libLLVM-14.so.1", "libbcc.so.0", "libclang-cpp.so.14"]


@pytest.mark.parametrize("name", ["bcc.py", "libLLVM-14.so.1", "libbcc.so.0",
                                  "libclang-cpp.so.14"])
def test_another_compiler_makes_another(name: str, kernel: Path, compiler: Path) -> None:
    before = unit_key.unit_key(kernel)
    _touch(compiler / "libc.so.6")
    assert unit_key.unit_key(kernel) == before
    _touch(compiler / name)
    assert unit_key.unit_key(kernel) != before


def test_an_unknown_compiler(kernel: Path, compiler: Path,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    listed = (compiler / "ld.so.cache").read_bytes()
    (compiler / "ld.so.cache").write_bytes(listed.replace(b"libbcc", b"libabc"))
    with pytest.raises(UnknownCompilerError):
        unit_key.unit_key(kernel)
    (compiler / "ld.so.cache").write_bytes(listed)
    monkeypatch.setattr(unit_key.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UnknownCompilerError):
        unit_key.unit_key(kernel)


def test_a_compiler_from_elsewhere_is_noticed(compiler: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    maps = tmp_path / "maps"
    monkeypatch.setattr(unit_key, "LOADED", maps)
    line = "7f0000000000-7f0000001000 r-xp 00000000 fe:00 1234                       "
    maps.write_text(f"{line}{compiler}/libbcc.so.0\n{line}{tmp_path}/libc.so.6\n{line}[stack]\n")
    check_compiler()
    (tmp_path / "libbcc.so.0").write_text("another")
    maps.write_text(f"{maps.read_text()}{line}{tmp_path}/libbcc.so.0\n")
    with pytest.raises(UnknownCompilerError, match="is not where"):
        check_compiler()


def test_without_the_kernel_apis_headers_there_is_none(api: Path, compiler: Path) -> None:
    (api / "linux/bpf.h").unlink()
    with pytest.raises(DatapathError, match="install linux-libc-dev"):
        unit_key.unit_key(KERNEL_FOLDER)
