"""Defines the one reason to skip a test even in CI: something could not be downloaded."""

from __future__ import annotations

import pytest


class CannotBeDownloaded(pytest.skip.Exception):
    """Skips a test; the text names what is missing and says why."""
