"""Translates what `slim ss` and `slim why` ask, and the answers, from and to JSON."""

from __future__ import annotations

from driver.api.codec import Fields
from driver.api.messages import Answer
from driver.errors import InvalidRequest
from driver.services.ports import Path, SocketFilter
from driver.services.seeing.connections import Connection, Listing
from driver.services.seeing.why import Answer as Reasons
from driver.services.seeing.why import Way

_PATHS = (Path.HOST, Path.OVERLAY, Path.LOCAL, Path.OUTSIDE)


def socket_filter(fields: Fields) -> SocketFilter:
    """Read the request of Slim.Sockets.  Error: InvalidRequest."""
    path = fields.text("Path")
    if path and path not in _PATHS:
        raise InvalidRequest(f"field Path: want one of {', '.join(_PATHS)}, got {path!r}")
    return SocketFilter(fields.text("Container"), fields.text("Network"),
                        Path(path) if path else None, fields.flag("Listening"), fields.flag("All"))


def question(fields: Fields) -> tuple[str, str]:
    """Read the request of Slim.Why: container and target.  Error: InvalidRequest."""
    return fields.text("Container", required=True), fields.text("Target", required=True)


def listing(found: Listing) -> Answer:
    """Write the answer of Slim.Sockets."""
    return {"Sockets": [_connection(each) for each in found.connections],
            "More": found.more, "Unread": found.unread}


def _connection(each: Connection) -> dict[str, object]:
    socket = each.socket
    listens = each.path is Path.NONE or socket.state == "LISTEN"
    own: dict[str, object] = {
        "Container": each.container, "Network": each.network, "Local": str(each.local),
        "LocalPort": each.local_port, "State": socket.state}
    if listens:
        return {**own, "Waiting": socket.waiting, "Backlog": socket.backlog}
    return {**own, "Peer": str(each.peer), "PeerPort": each.peer_port,
            "PeerName": each.peer_name, "PeerHost": each.peer_host, "Path": str(each.path),
            "AgeSeconds": None if each.age_s is None else round(each.age_s, 3),
            "RttMicroseconds": socket.rtt_us or None,
            "Retransmissions": socket.retransmissions, "BytesIn": socket.received_bytes,
            "BytesOut": socket.sent_bytes}


def reasons(found: Reasons) -> Answer:
    """Write the answer of Slim.Why."""
    return {"Container": found.container, "Verdict": found.verdict,
            "Ways": [_way(each) for each in found.ways]}


def _way(way: Way) -> dict[str, object]:
    reason = way.judgement.reason
    return {"Source": str(way.source or ""), "Target": str(way.target), "Port": way.port,
            "Service": str(way.service or ""), "Network": way.network,
            "PeerName": way.peer_name, "PeerHost": way.peer_host,
            "Path": str(way.judgement.path), "Verdict": way.verdict,
            "Reason": reason.reason if reason is not None else "",
            "Checks": [{"Check": each.name, "Good": each.good, "Says": each.says,
                        "Reason": each.reason if each.good is False else "",
                        "Remedy": each.remedy} for each in way.checks]}
