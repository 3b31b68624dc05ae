"""Turns what the file system refuses into the driver's error, which names what was to be done.

For notes that end with their sandboxes; what must survive a reboot is written by notes.py.
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
