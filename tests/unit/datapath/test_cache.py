"""Tests storing compiled programs in files: a file that was damaged counts as none."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from driver.datapath.build import cache
from driver.datapath.code.compiled import Compiled, MapSpec
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.errors import DatapathError

KEY = "0" * 64
SPEC = MapSpec("flows", 1, 8, 4, 100, 1, 3, 4, ["key", [["a", "int"], ["b", "int", [1]]], "struct"],
               "unsigned int")
UNIT = Compiled({"one": bytes(range(256)), "two": b""}, (SPEC,), b"\x9f\xeb\0")
OTHER = Compiled({"one": b"12345678"}, (), b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var" / "cache"


@pytest.fixture
def kept(folder: Path) -> Path:
    """Return a stored file that is fit for use."""
    cache.write(folder, KEY, UNIT)
    return folder / f"{KEY}.json"


def test_what_was_written_is_read(folder: Path, kept: Path) -> None:
    assert cache.read(folder, KEY) == UNIT
    assert cache.read(folder, "1" * 64) is None
    assert (folder.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)
    assert list(folder.iterdir()) == [kept]


def test_nothing_was_written(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.read(folder, KEY) is None
    assert caplog.text == ""


def _changed(change: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        found = json.loads(data)
        change(found)
        return json.dumps(found).encode()
    return spoil


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no text": lambda _: b"\xff\xfe\0",
    "no object": lambda _: b"[]",
    "no members": lambda _: b"{}",
    "nested without end": lambda _: b"[" * 100_000,
    "newer": _changed(lambda found: found.update(schema=2)),
    "no schema": _changed(lambda found: found.pop("schema")),
    "no digest": _changed(lambda found: found.pop("digest")),
    "another digest": _changed(lambda found: found.update(digest="0" * 64)),
    "no content": _changed(lambda found: found.pop("compiled")),
    "another content": _changed(lambda found: found["compiled"]["programs"].update(one="")),
    "more content": lambda data: data + b"{}",
    "a bit is another one": lambda data: data.replace(b'"name": "flows"', b'"name": "glows"'),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_file_is_not_used(spoil: Callable[[bytes], bytes], folder: Path, kept: Path,
                                   caplog: pytest.LogCaptureFixture) -> None:
    before = kept.read_bytes()
    kept.write_bytes(spoil(before))
    assert kept.read_bytes() != before
    assert cache.read(folder, KEY) is None
    assert f"{kept} is not used" in caplog.text


def test_a_file_that_was_cut_short_is_not_used(folder: Path, kept: Path) -> None:
    whole = kept.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        kept.write_bytes(whole[:length])
        assert cache.read(folder, KEY) is None, length
    kept.write_bytes(whole)
    assert cache.read(folder, KEY) == UNIT


def test_a_file_under_another_name_is_not_used(folder: Path, kept: Path) -> None:
    kept.rename(folder / f"{'1' * 64}.json")
    assert cache.read(folder, "1" * 64) is None


def test_a_content_of_another_shape_is_not_used() -> None:
    """Its digest is right, so a slim with the same schema wrote it, but something is wrong."""
    for change in ({"programs": {"one": "?"}}, {"programs": []}, {"maps": [{"name": "flows"}]},
                   {"maps": None}, {"btf": None}):
        body = {**json.loads(cache.encode(KEY, UNIT))["compiled"], **change}
        digest = hashlib.sha256(f"{KEY} {json.dumps(body, sort_keys=True)}".encode()).hexdigest()
        data = json.dumps({"schema": 1, "key": KEY, "digest": digest, "compiled": body}).encode()
        with pytest.raises(ValueError, match=r"none of slim's|base64|padding|padded"):
            cache.decode(data, KEY)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_is_not_used(mode: int, folder: Path, kept: Path) -> None:
    kept.chmod(mode)
    assert cache.read(folder, KEY) is None
    kept.chmod(0o644)
    assert cache.read(folder, KEY) == UNIT


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(mode: int, folder: Path, kept: Path) -> None:
    folder.chmod(mode)
    assert cache.read(folder, KEY) is None
    with pytest.raises(PermissionError, match="may be written by others"):
        cache.write(folder, KEY, OTHER)
    folder.chmod(0o755)
    assert cache.read(folder, KEY) == UNIT


def test_what_belongs_to_somebody_else_is_not_used(folder: Path, kept: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    assert cache.read(folder, KEY) is None
    with pytest.raises(PermissionError):
        cache.write(folder, KEY, OTHER)


def test_links_are_not_followed(folder: Path, kept: Path, tmp_path: Path) -> None:
    elsewhere = kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(elsewhere)
    assert cache.read(folder, KEY) is None
    elsewhere.replace(kept)
    assert cache.read(folder, KEY) == UNIT
    real = folder.rename(tmp_path / "real")
    folder.symlink_to(real)
    assert cache.read(folder, KEY) is None
    with pytest.raises(NotADirectoryError):
        cache.write(folder, KEY, OTHER)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_used(kind: str, folder: Path, kept: Path) -> None:
    kept.unlink()
    kept.mkdir() if kind == "folder" else os.mkfifo(kept, 0o600)
    assert cache.read(folder, KEY) is None


def test_a_disk_that_is_full_leaves_what_was_there(folder: Path, kept: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.write(folder, KEY, OTHER)
    assert cache.read(folder, KEY) == UNIT
    assert list(folder.iterdir()) == [kept]


def test_those_used_last_are_kept(folder: Path) -> None:
    keys = [f"{number:064x}" for number in range(cache.KEPT + 2)]
    (folder.parent).mkdir(parents=True)
    folder.mkdir(0o700)
    left = folder / "tmpabc"  # a killed writer's
    left.write_text("")
    os.utime(left, (0, 0))
    for at_s, key in enumerate(keys[:-1], 1):
        cache.write(folder, key, UNIT)
        os.utime(folder / f"{key}.json", (at_s, at_s))
    assert not left.exists()
    assert cache.read(folder, keys[1]) == UNIT  # so that another one was used longest ago
    cache.write(folder, keys[-1], UNIT)
    assert {path.stem for path in folder.iterdir()} == {keys[1], *keys[3:]}


class Compiler:
    """A stand-in for the compiler that counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr(cache, "compile_apart", self)
        monkeypatch.setattr(cache, "unit_key", lambda _folder: KEY)
        monkeypatch.setattr(cache, "check_compiler", lambda: None)

    def __call__(self, _kernel_folder: Path, _headers: Path | None) -> Compiled:
        self.calls += 1
        return UNIT


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


def test_what_is_kept_is_not_compiled(folder: Path, compiler: Compiler) -> None:
    assert cache.compiled_unit(folder=folder) == UNIT
    assert cache.compiled_unit(folder=folder) == UNIT
    assert compiler.calls == 1


def test_a_spoilt_file_is_replaced(folder: Path, kept: Path, compiler: Compiler) -> None:
    kept.write_text("spoilt")
    assert cache.compiled_unit(folder=folder) == UNIT
    assert compiler.calls == 1
    assert cache.read(folder, KEY) == UNIT


def test_without_a_place_to_write_it_is_compiled_each_time(
        tmp_path: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert cache.compiled_unit(folder=tmp_path / "file" / "cache") == UNIT
    assert compiler.calls == 2
    assert "the next start has to compile, too: " in caplog.text


def test_what_cannot_be_told_apart_is_not_kept(folder: Path, compiler: Compiler,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> str:
        raise cache.UnknownCompilerError("no libbcc")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "unit_key", unknown)
        assert cache.compiled_unit(folder=folder) == UNIT
        assert cache.kept_unit(folder=folder) is None
    monkeypatch.setattr(cache, "check_compiler", unknown)
    assert cache.compiled_unit(folder=folder) == UNIT
    assert compiler.calls == 2
    assert list(folder.glob("*")) == []


def test_what_changes_while_it_is_compiled_is_not_kept(
        folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [KEY, "1" * 64]
    monkeypatch.setattr(cache, "unit_key", lambda _folder: keys.pop(0))
    assert cache.compiled_unit(folder=folder) == UNIT
    assert keys == []
    assert list(folder.glob("*")) == []


def test_a_text_that_does_not_compile_is_an_error(folder: Path, compiler: Compiler,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Compiled:
        raise DatapathError("oops")

    monkeypatch.setattr(cache, "compile_apart", broken)
    with pytest.raises(DatapathError, match="oops"):
        cache.compiled_unit(folder=folder)
    assert list(folder.glob("*")) == []


# -------------------------------------------------------------------- shipped
@pytest.fixture
def shipped(tmp_path: Path, compiler: Compiler) -> Path:
    """Return the C text's folder of a root file system that has the programs compiled."""
    kernel = Path(shutil.copytree(KERNEL_FOLDER, tmp_path / "slim" / "kernel"))
    cache.ship(kernel.parent)
    compiler.calls = 0
    return kernel


def test_what_came_compiled_needs_no_compiler(shipped: Path, folder: Path, compiler: Compiler,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_folder: Path) -> str:
        raise cache.UnknownCompilerError("no libbcc")

    monkeypatch.setattr(cache, "unit_key", unknown)
    assert cache.shipped_unit(shipped) == UNIT
    assert cache.kept_unit(shipped, folder) == UNIT
    assert cache.compiled_unit(shipped, folder=folder) == UNIT
    assert compiler.calls == 0
    assert not folder.exists()


@pytest.mark.parametrize("change", ["the text", "the file", "who may write"])
def test_what_came_compiled_is_not_used(change: str, shipped: Path, folder: Path,
                                        compiler: Compiler) -> None:
    (file,) = (shipped.parent / cache.SHIPPED).iterdir()
    if change == "the text":
        (shipped / "icmp.c").write_text("/* */")
    elif change == "the file":
        file.write_text("spoilt")
    else:
        file.chmod(0o666)
    assert cache.shipped_unit(shipped) is None
    assert cache.compiled_unit(shipped, folder=folder) == UNIT
    assert compiler.calls == 1


def test_a_checkout_has_none() -> None:
    assert cache.shipped_unit() is None
