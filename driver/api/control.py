"""Answers the calls that are not Docker's, but those of the command line: `slim status` and others.

They go over the same socket, whose mode already lets only root ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from driver.api import flows, seeing
from driver.api import picture as pictures
from driver.api.messages import Answer
from driver.api.table import Call, with_request, without_request
from driver.errors import SlimError
from driver.services.ports import SocketFilter
from driver.services.seeing.connections import Listing
from driver.services.seeing.flows import FlowsAnswer
from driver.services.seeing.refusals import Refusal
from driver.services.seeing.telling import FlowFilter
from driver.services.seeing.why import Answer as Reasons
from driver.services.watching.picture import Picture

PREFIX = "Slim."  # not the name of any Docker protocol
COUNTERS = "Slim.Counters"
STATUS = "Slim.Status"
NAMES = "Slim.Names"
METRICS = "Slim.Metrics"
LOG = "Slim.Log"
SOCKETS = "Slim.Sockets"
WHY = "Slim.Why"
PICTURE = "Slim.Picture"
FLOWS = "Slim.Flows"
REFUSALS = "Slim.Refusals"


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
                 why: Callable[[str, str], Reasons] = _nothing,
                 picture: Callable[[bool], Picture] = _nothing,
                 follow: Callable[[FlowFilter, str], FlowsAnswer] = _nothing,
                 refusals: Callable[[FlowFilter], list[Refusal]] = _nothing) -> None:
        """`counters`: reason -> packets or connections.  `status`: part -> one line.

        `names`: an object per endpoint that has a name, on any host.  `metrics`: Prometheus' text.
        `log`: the last lines.
        `sockets`: what is open, as asked for.  `why`: the way from a container to a target.
        `picture`: what goes on, on this host or (True) in the cluster.
        `follow`: what has happened since an answer.  `refusals`: what was refused.
        """
        self._counters = counters
        self._status = status
        self._names = names
        self._metrics = metrics
        self._log = log
        self._sockets = sockets
        self._why = why
        self._picture = picture
        self._follow = follow
        self._refusals = refusals

    def calls(self) -> dict[str, Call]:
        """Return all calls by the last part of their URL."""
        return {COUNTERS: without_request(self.get_counters),
                STATUS: without_request(self.get_status),
                NAMES: without_request(self.get_names),
                METRICS: without_request(self.get_metrics),
                LOG: without_request(self.get_log),
                SOCKETS: with_request(seeing.socket_filter, self.get_sockets),
                WHY: with_request(seeing.question, self.get_why),
                PICTURE: with_request(pictures.wanted, self.get_picture),
                FLOWS: with_request(flows.flows_request, self.get_flows),
                REFUSALS: with_request(flows.flow_filter, self.get_refusals)}

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

    def get_picture(self, cluster: bool) -> Answer:
        """Return what goes on, on this host or in the cluster."""
        return pictures.picture(self._picture(cluster))

    def get_flows(self, asked: flows.FlowsRequest) -> Answer:
        """Return what connections have done since the answer before."""
        return flows.flows_answer(self._follow(*asked))

    def get_refusals(self, wanted: FlowFilter) -> Answer:
        """Return what was refused."""
        return flows.refusals(self._refusals(wanted))
