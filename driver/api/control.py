"""Answers the calls that are not Docker's, as `slim status` and `slim counters`.

They go over the same socket, whose mode already lets only root ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from driver.api.messages import Answer
from driver.api.table import Call, without_request

PREFIX = "Slim."  # not the name of any Docker protocol
COUNTERS = "Slim.Counters"
STATUS = "Slim.Status"
NAMES = "Slim.Names"
METRICS = "Slim.Metrics"


class Control:
    """Answers questions about the running daemon; changes nothing."""

    def __init__(self, counters: Callable[[], Mapping[str, int]],
                 status: Callable[[], Mapping[str, str]],
                 names: Callable[[], Sequence[Mapping[str, str]]] = list,
                 metrics: Callable[[], str] = str) -> None:
        """`counters`: reason -> packets or connections.  `status`: part -> one line.

        `names`: an object per endpoint that has a name, on any host.  `metrics`: Prometheus' text.
        """
        self._counters = counters
        self._status = status
        self._names = names
        self._metrics = metrics

    def calls(self) -> dict[str, Call]:
        """Return all calls by the last part of their URL."""
        return {COUNTERS: without_request(self.get_counters),
                STATUS: without_request(self.get_status),
                NAMES: without_request(self.get_names),
                METRICS: without_request(self.get_metrics)}

    def get_counters(self) -> Answer:
        """Return the counters by reason."""
        return {"Counters": dict(self._counters())}

    def get_names(self) -> Answer:
        """Return the names of all endpoints that this host knows."""
        return {"Names": [dict(each) for each in self._names()]}

    def get_metrics(self) -> Answer:
        """Return the metrics."""
        return {"Metrics": self._metrics()}

    def get_status(self) -> Answer:
        """Return the state of each part."""
        return {"Status": dict(self._status())}
