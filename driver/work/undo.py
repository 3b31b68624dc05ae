"""Undoes effects in reverse order, and runs several inverses even if some fail.

Each effect has a name and an inverse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from driver.errors import SlimError

log = logging.getLogger(__name__)

Step = tuple[str, Callable[[], object]]  # what it does (for the log), and the inverse itself


class Undo:
    """Collects inverses while a use case proceeds; a failure runs them, last one first.

    `with Undo() as undo:` - the error that left the block propagates after the inverses ran.
    An inverse that fails is logged and does not keep the others from running.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def push(self, what: str, inverse: Callable[[], object]) -> None:
        """Remember the inverse of the effect that has just succeeded."""
        self._steps.append((what, inverse))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is None:
            return
        while self._steps:
            what, inverse = self._steps.pop()
            try:
                inverse()
            except Exception as failure:
                # Logged, not raised: the caller must learn of the first error.
                log.error("undo: %s failed: %s", what, failure, exc_info=not _expected(failure))


def run_all(steps: Sequence[Step]) -> None:
    """Run every step even if others fail; raise the first failure at the end.

    For removals, which dockerd never requests again: one stuck resource must not keep the
    others alive.
    """
    first: Exception | None = None
    for what, step in steps:
        try:
            step()
        except Exception as failure:
            if first is None:
                first = failure
            else:
                log.error("%s failed too: %s", what, failure, exc_info=not _expected(failure))
    if first is not None:
        raise first


def _expected(failure: Exception) -> bool:
    return isinstance(failure, SlimError)
