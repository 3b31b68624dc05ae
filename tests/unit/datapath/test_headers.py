"""Tests that the header tree exists while something is compiled, and not afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.datapath.build.headers import header_tree
from driver.datapath.code.programs import KERNEL_FOLDER


def test_it_goes_when_it_is_not_needed_any_more(tmp_path: Path) -> None:
    with header_tree(KERNEL_FOLDER, tmp_path / "headers") as tree:
        assert (tree / "include/uapi/linux/bpf.h").is_file()
    with pytest.raises(ValueError, match="by the test"), header_tree(KERNEL_FOLDER) as other:
        raise ValueError("by the test")
    assert not tree.exists()
    assert not other.exists()


def test_what_a_killed_driver_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / "headers"
    left.mkdir()
    (left / "include").symlink_to("/nowhere")
    with header_tree(KERNEL_FOLDER, left) as tree:
        assert (tree / "include/uapi/linux/bpf.h").is_file()
    assert list(tmp_path.iterdir()) == []
