"""Follows the file in which `slim cluster` keeps the URLs of etcd's members."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_S: Final = 1.0  # between looks at the file
_URL: Final = re.compile(r"https?://[^\s/:@]+:[0-9]{1,5}")


class EndpointsFile:
    """A file with URLs, one a line.  Not thread-safe."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """path: "" means none, which never changes.  clock: seconds, monotonic."""
        self._path = path
        self._clock = clock
        self._looked_s = clock()
        # Who knows its URLs from before may have missed a change: the first look is none too many.
        self._state: tuple[int, int, int] | None = None

    def changed(self) -> tuple[str, ...]:
        """Return the URLs if the file has changed since they were last returned; () if not.

        A file that is missing, unreadable or empty has not changed: what was known stays.
        """
        if not self._path or self._clock() - self._looked_s < LOOK_S:
            return ()
        self._looked_s = self._clock()
        state = self._look()
        if state is None or state == self._state:
            return ()
        try:
            urls = tuple(Path(self._path).read_text(encoding="ascii").split())
        except (OSError, UnicodeDecodeError):
            return ()
        self._state = state
        return urls if all(map(_URL.fullmatch, urls)) else ()

    def _look(self) -> tuple[int, int, int] | None:
        if not self._path:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
