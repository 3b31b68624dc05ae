"""Runs `slim cluster status`, `leave`, `remove`, `backup`, `restore` and `tidy`."""

from __future__ import annotations

from typing import Any

from driver.errors import SlimError
from driver.settings import Settings


def run_status(settings: Settings, options: dict[str, Any]) -> int:
    """List members, hosts, health and certificates."""
    raise SlimError("not written yet")


run_leave = run_remove = run_backup = run_restore = run_tidy = run_status
