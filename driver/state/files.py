"""Turns an OSError into the driver's LinkError, which names the failed step.

For notes that end with their sandboxes; notes.py writes what must survive a reboot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from driver.errors import LinkError


@contextmanager
def step(what: str) -> Iterator[None]:
    """Raise LinkError("<what>: <cause>") for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise LinkError(f"{what}: {error}") from error
