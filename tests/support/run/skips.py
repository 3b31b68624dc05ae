"""The one reason for which a test may be skipped even in CI: something could not be downloaded.

It knows neither what that was nor who wanted it.
"""

from __future__ import annotations

import pytest


class CannotBeDownloaded(pytest.skip.Exception):
    """Skips a test; the text names what is missing and says why."""
