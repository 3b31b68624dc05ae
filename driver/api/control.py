"""Answers the calls that are not Docker's, but those of the command line: `slim status` and others.

They go over the same socket, whose mode already lets only root ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from driver.api import seeing
from driver.api.messages import Answer
from driver.api.table import Call, with_request, without_request
from driver.errors import SlimError
from driver.services.ports import SocketFilter
from driver.services.seeing.connections import Listing
from driver.services.seeing.why import Answer as Reasons

PREFIX = "Slim."  # not the name of any Docker protocol
COUNTERS = "Slim.Counters"
STATUS = "Slim.Status"
NAMES = "Slim.Names"
METRICS = "Slim.Metrics"
LOG = "Slim.Log"
SOCKETS = "Slim.Sockets"
WHY = "Slim.Why"


def _nothing(*_arguments: object) -> Any:
    raise SlimError("this driver does not see connections")


class Control:
    """Answers questions about the running daemon; changes nothing."""

    def __init__(self, counters: Callable[[], Mapping[str, int]],
                 status: Callable[[], Mapping[str, str]],
                 names: Callable[[], Sequence[Mapping[str, str]]] = list,
                 *, metrics: Callable[[], str] = str,
                 log: Callable[[], Sequence[str]] = list,
                 sockets: Callable[[SocketFilter], Listing] = _nothing,
                 why: Callable[[str, str], Reasons] = _nothing) -> None:
        """`counters`: reason -> packets or connections.  `status`: part -> one line.

        `names`: an object per endpoint that has a name, on any host.  `metrics`: Prometheus' text.
        `log`: the last lines.
        `sockets`: what is open, as asked for.  `why`: the way from a container to a target.
        """
        self._counters = counters
        self._status = status
        self._names = names
        self._metrics = metrics
        self._log = log
        self._sockets = sockets
        self._why = why

    def calls(self) -> dict[str, Call]:
        """Return all calls by the last part of their URL."""
        return {COUNTERS: without_request(self.get_counters),
                STATUS: without_request(self.get_status),
                NAMES: without_request(self.get_names),
                METRICS: without_request(self.get_metrics),
                LOG: without_request(self.get_log),
                SOCKETS: with_request(seeing.socket_filter, self.get_sockets),
                WHY: with_request(seeing.question, self.get_why)}

    def get_counters(self) -> Answer:
        """Return the counters by reason."""
        return {"Counters": dict(self._counters())}

    def get_names(self) -> Answer:
        """Return the names of all endpoints that this host knows."""
        return {"Names": [dict(each) for each in self._names()]}

    def get_metrics(self) -> Answer:
        """Return the metrics."""
        return {"Metrics": self._metrics()}

    def get_log(self) -> Answer:
        """Return the last lines of the log, each without its end."""
        return {"Lines": list(self._log())}

    def get_status(self) -> Answer:
        """Return the state of each part."""
        return {"Status": dict(self._status())}

    def get_sockets(self, wanted: SocketFilter) -> Answer:
        """Return open connections, or listeners."""
        return seeing.listing(self._sockets(wanted))

    def get_why(self, asked: tuple[str, str]) -> Answer:
        """Return the way from a container to a target, and the reasons."""
        return seeing.reasons(self._why(*asked))
