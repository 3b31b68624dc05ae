"""Tests the archive: bounded, for root only, whole or not at all, and never over another file."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from driver.errors import InvalidArgument, SlimError
from driver.support import bundle
from driver.support.bundle import PART_MOST, collect, write


def fails() -> str:
    raise SlimError("no driver answers; its password is hunter22")


def test_a_part_that_fails_says_why_and_keeps_no_other() -> None:
    found = collect({"a": lambda: "fine hunter22", "b": fails, "c": lambda: str({}["x"])},
                    lambda text: text.replace("hunter22", "*"))
    assert found["a"] == b"fine *"
    assert found["b"] == b"not to be had: SlimError: no driver answers; its password is *\n"
    assert found["c"].startswith(b"not to be had: KeyError")


def test_a_long_part_keeps_its_end() -> None:
    found = collect({"log": lambda: "x" * PART_MOST + "the end"}, str)["log"]
    assert found.startswith(b"[the beginning is cut off]\n")
    assert found.endswith(b"the end")
    assert len(found) < PART_MOST + 100


def test_the_archive_is_for_root_only_and_unpacks_into_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    mask = os.umask(0)
    try:
        length = write(path, "b", {"log": b"one\n", "maps": b""}, 1_790_000_000.5)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert length == path.stat().st_size
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["b/log", "b/maps"]
        log = archive.extractfile("b/log")
        assert log is not None
        assert log.read() == b"one\n"


def test_another_file_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument, match="is there already: name another file"):
        write(path, "b", {}, 0)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(InvalidArgument, match="cannot be made: No such file"):
        write(tmp_path / "none" / "b.tar.gz", "b", {}, 0)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.os, "fsync", full)
    with pytest.raises(SlimError, match="cannot be written: No space left"):
        write(tmp_path / "b.tar.gz", "b", {"a": b"x"}, 0)
    assert list(tmp_path.iterdir()) == []
