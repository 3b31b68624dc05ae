"""Owns the calls that are not Docker's: what `slim status` and `slim counters` ask the daemon.

It must not know how the values come about.  They go over the same socket, whose mode already
says that only root may ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from driver.api.messages import Answer
from driver.api.table import Call, without_request

PREFIX = "Slim."  # which is no name of a Docker protocol
COUNTERS = "Slim.Counters"
STATUS = "Slim.Status"


class Control:
    """Answers questions about the running daemon.  Changes nothing."""

    def __init__(self, counters: Callable[[], Mapping[str, int]],
                 status: Callable[[], Mapping[str, str]]) -> None:
        """`counters`: reason -> packets or connections.  `status`: part -> one line."""
        self._counters = counters
        self._status = status

    def calls(self) -> dict[str, Call]:
        """All calls by their URL's last part."""
        return {COUNTERS: without_request(self.get_counters),
                STATUS: without_request(self.get_status)}

    def get_counters(self) -> Answer:
        """Counters by reason."""
        return {"Counters": dict(self._counters())}

    def get_status(self) -> Answer:
        """State of each part."""
        return {"Status": dict(self._status())}
