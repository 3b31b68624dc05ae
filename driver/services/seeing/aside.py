"""Runs a question in a thread of its own, one at a time, and waits no longer than it may.

So whoever asks a lot cannot take the threads that serve Docker's calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from driver.errors import SlimError

T = TypeVar("T")

TURN_S: Final = 1.0  # for the question before
WAIT_S: Final = 3.8  # both together: whoever asks waits for 5 s


class Aside:
    """One question at a time."""

    def __init__(self, turn_s: float = TURN_S, wait_s: float = WAIT_S) -> None:
        self._turn_s = turn_s
        self._wait_s = wait_s
        self._lock = threading.Lock()

    def run(self, function: Callable[[], T]) -> T:
        """Return or raise what the function does.

        Error: SlimError: another question is being answered, or it takes too long.
        """
        if not self._lock.acquire(timeout=self._turn_s):
            raise SlimError("another such question is being answered at this moment: try again")
        result: list[T] = []
        failure: list[BaseException] = []

        def answer() -> None:
            try:
                result.append(function())
            except BaseException as error:  # passed on, whatever it is
                failure.append(error)
            finally:
                self._lock.release()

        thread = threading.Thread(target=answer, name="a question", daemon=True)
        thread.start()
        thread.join(self._wait_s)
        if failure:
            try:
                raise failure[0]
            finally:
                failure.clear()  # else error -> traceback -> frame -> error is a cycle
        if not result:
            raise SlimError(f"no answer was found within {self._wait_s:g} s: try again, and ask "
                            "about one container")
        return result[0]
