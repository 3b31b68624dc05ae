"""Shows lines on a terminal, in place of those before, and hears single keys.

Whatever ends the program, the terminal is as it was before.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from driver.work.shown import columns

# Another page of the terminal, no cursor, and lines that do not wrap; and back.
_BEGIN: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_END: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_PAGE = "\x1b[H", "\x1b[K", "\x1b[J"
SIZE: Final = os.terminal_size((80, 24))  # if nobody says


class Screen:
    """The terminal, between `opened` and its end."""

    def size(self) -> os.terminal_size:
        """Return how many columns and lines there are now."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return SIZE
        return found if found.columns and found.lines else SIZE

    def show(self, lines: Sequence[str]) -> None:
        """Show the lines, cut to what there is room for."""
        size = self.size()
        text = "\r\n".join(columns(line, size.columns) + _REST_OF_LINE
                           for line in lines[:size.lines])
        sys.stdout.write(_HOME + text + _REST_OF_PAGE)
        sys.stdout.flush()

    def key(self, wait_s: float) -> str:
        """Return the key that is pressed within this time, "": none.

        "q" also at the end of input.
        """
        if not sys.stdin.isatty():
            select.select([], [], [], wait_s)
            return ""
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], wait_s)
        if not ready:
            return ""
        pressed = os.read(sys.stdin.fileno(), 64)
        return pressed[:1].decode(errors="replace") if pressed else "q"


@contextmanager
def opened() -> Iterator[Screen]:
    """Take the terminal over."""
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminate))
        if sys.stdin.isatty():
            before = termios.tcgetattr(sys.stdin.fileno())
            stack.callback(termios.tcsetattr, sys.stdin.fileno(), termios.TCSADRAIN, before)
            tty.setcbreak(sys.stdin.fileno())
        stack.callback(_write, _END)
        _write(_BEGIN)
        yield Screen()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _terminate(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
