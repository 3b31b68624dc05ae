"""Sets up the log: its format, and a limit of once an hour for faults that persist.

A line is one line, in the formats `logfmt` and `json` also if an error's trace belongs to it.

A caller marks such a line with `extra=STANDING`: repeating the text would say nothing new.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

TEXT, LOGFMT, JSON = FORMATS = "text", "logfmt", "json"
_PLAIN: Final = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
_BARE: Final = re.compile(r"[^\s\"=\x00-\x1f\x7f]+")  # a value of logfmt that needs no quotes
STANDING: Final = {"standing": True}
AGAIN_S: Final = 3600.0
RECENT_LINES: Final = 1000  # kept for `slim support` where nobody keeps the log
RECENT_LINE_MOST: Final = 2000  # characters of each
KEPT = 10_000  # texts; with more faults than that, the oldest are logged again


class StandingOnce(logging.Filter):
    """Lets a line with `STANDING` through once an hour.  Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if not getattr(record, "standing", False):
            return True
        text, now_s = record.getMessage(), self._clock()
        with self._lock:
            said_s = self._said.get(text)
            if said_s is not None and now_s - said_s < AGAIN_S:
                return False
            self._said.pop(text, None)  # moves to the end: the first is the oldest
            self._said[text] = now_s
            if len(self._said) > KEPT:
                del self._said[next(iter(self._said))]
        return True


class Fields(logging.Formatter):
    """Writes a line as `time`, `level`, `logger`, `msg` and, if there is one, the trace `error`."""

    def __init__(self, write: Callable[[dict[str, str]], str]) -> None:
        """write: makes the line of the fields, in their order."""
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "logger": record.name, "msg": record.getMessage()}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return self._write(fields)


class _Keeping(logging.StreamHandler[TextIO]):
    """Keeps the last lines that it has written."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Handler."""
        line = super().format(record)
        _recent.append(line[:RECENT_LINE_MOST])
        return line


_recent: deque[str] = deque(maxlen=RECENT_LINES)


def recent() -> list[str]:
    """Return the last lines of this process's log.  For any thread."""
    return list(_recent)


def as_logfmt(fields: dict[str, str]) -> str:
    """Return `key=value` pairs; what is not bare is quoted as in JSON."""
    return " ".join(f"{key}={value if _BARE.fullmatch(value) else json.dumps(value)}"
                    for key, value in fields.items())


def begin(level: str = "INFO", form: str = LOGFMT) -> None:
    """Write everything from `level` on to standard error, in one of FORMATS."""
    handler = _Keeping(sys.stderr)
    handler.setFormatter({TEXT: _PLAIN, LOGFMT: Fields(as_logfmt), JSON: Fields(json.dumps)}[form])
    handler.addFilter(StandingOnce())
    logging.basicConfig(level=level, handlers=[handler])
