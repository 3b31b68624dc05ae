"""Tests that `slim cleanup` refuses while a driver answers, and removes all layouts' pins."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from driver.commands.cleanup import remove_pins, run_cleanup
from driver.errors import SlimError
from driver.settings import Settings


def test_a_running_driver_keeps_its_programs(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        path = str(tmp_path / "slim.sock")
        server.bind(path)
        server.listen()
        with pytest.raises(SlimError, match="stop it first"):
            run_cleanup(Settings(socket=path))


def test_pins_of_all_layouts_go(tmp_path: Path) -> None:
    for name in ("slim/v1/maps/flows", "slim/v0/old", "other/pin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_pins(tmp_path / "slim")
    remove_pins(tmp_path / "slim")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
