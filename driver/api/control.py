"""Answers the calls that are not Docker's: `slim status` and `slim counters`.

They go over the same socket, whose mode already lets only root ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from driver.api.messages import Answer
from driver.api.table import Call, without_request

PREFIX = "Slim."  # not the name of any Docker protocol
COUNTERS = "Slim.Counters"
STATUS = "Slim.Status"


class Control:
    """Answers questions about the running daemon; changes nothing."""

    def __init__(self, counters: Callable[[], Mapping[str, int]],
                 status: Callable[[], Mapping[str, str]]) -> None:
        """`counters`: reason -> packets or connections.  `status`: part -> one line."""
        self._counters = counters
        self._status = status

    def calls(self) -> dict[str, Call]:
        """Return all calls by the last part of their URL."""
        return {COUNTERS: without_request(self.get_counters),
                STATUS: without_request(self.get_status)}

    def get_counters(self) -> Answer:
        """Return the counters by reason."""
        return {"Counters": dict(self._counters())}

    def get_status(self) -> Answer:
        """Return the state of each part."""
        return {"Status": dict(self._status())}
