"""Translates what `slim flows` asks, and the answers, from and to JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from driver.api.codec import Fields
from driver.api.messages import Answer
from driver.errors import InvalidRequest
from driver.services.seeing.flows import FlowsAnswer
from driver.services.seeing.refusals import Refusal
from driver.services.seeing.telling import FlowFilter, Told, Verdict

_VERDICTS = tuple(Verdict)


class FlowsRequest(NamedTuple):
    """What Slim.Flows asks for."""

    wanted: FlowFilter
    after: str  # the answer before's Next; "": begin


def flows_request(fields: Fields) -> FlowsRequest:
    """Read the request of Slim.Flows.  Error: InvalidRequest."""
    return FlowsRequest(flow_filter(fields), fields.text("After"))


def flow_filter(fields: Fields) -> FlowFilter:
    """Read which events are wanted.  Error: InvalidRequest."""
    verdict = fields.text("Verdict")
    if verdict and verdict not in _VERDICTS:
        raise InvalidRequest(f"field Verdict: want one of {', '.join(_VERDICTS)}, got {verdict!r}")
    return FlowFilter(fields.text("Container"), fields.text("Network"),
                      Verdict(verdict) if verdict else None, fields.text("Reason"))


def flows_answer(found: FlowsAnswer) -> Answer:
    """Write the answer of Slim.Flows."""
    return {"Events": [_event(each) for each in found.told], "Next": found.next,
            "Lost": found.lost, "Paused": found.paused}


def _event(told: Told) -> dict[str, object]:
    event = told.event
    ended = event.lasted_ns > 0
    return {
        "Time": when(told.at_s), "Event": str(event.kind), "Container": told.container,
        "Network": told.network, "Direction": "in" if event.inbound else "out",
        "Local": str(event.local) if event.local is not None else None,
        "LocalPort": event.local_port or None, "Peer": str(event.peer),
        "PeerPort": event.peer_port or None, "PeerName": told.peer_name,
        "PeerHost": told.peer_host, "Verdict": str(told.verdict), "Reason": told.reason,
        "Times": event.times or None,
        "LastedSeconds": round(event.lasted_ns / 1e9, 6) if ended else None,
        "BytesIn": event.received_bytes if ended else None,
        "BytesOut": event.sent_bytes if ended else None,
        "ClosedBy": str(event.ending) or None, "Socket": event.socket or None}


def refusals(found: list[Refusal]) -> Answer:
    """Write the answer of Slim.Refusals."""
    return {"Refusals": [_refusal(each) for each in found]}


def _refusal(each: Refusal) -> dict[str, object]:
    return {
        "First": when(each.first_s), "Last": when(each.last_s), "Container": each.container,
        "Network": each.network, "Direction": "in" if each.inbound else "out",
        "Local": str(each.own) if each.own is not None else None,
        "LocalPort": each.own_port or None,
        "Peer": str(each.peer) if each.peer is not None else None,
        "PeerPort": each.peer_port or None, "PeerName": each.peer_name, "Reason": each.reason,
        "Meaning": each.meaning, "Count": each.count}


def when(at_s: float) -> str:
    """Return a moment as RFC 3339 has it, in UTC, with milliseconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z")
