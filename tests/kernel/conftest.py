"""Provides a folder for pins to tests of the programs, and removes it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.world.machines import mount_bpffs
from tests.support.world.netns import require_root


@contextmanager
def folder_for_pins() -> Iterator[Path]:
    require_root()
    folder = mount_bpffs() / f"slimtest-{secrets.token_hex(4)}"
    try:
        yield folder
    finally:
        for pin in folder.iterdir() if folder.exists() else ():
            pin.unlink()
        if folder.exists():
            folder.rmdir()


@pytest.fixture
def pins() -> Iterator[Path]:
    with folder_for_pins() as folder:
        yield folder
