"""Translates the request and the answer of Slim.Picture from and to JSON."""

from __future__ import annotations

from driver.api.codec import Fields
from driver.api.messages import Answer
from driver.services.ports import End, NetworkSeen
from driver.services.watching.picture import EndpointOf, PairOf, PathOf, Picture, ReasonOf, Refusal
from driver.services.watching.states import HostState

DIGITS = 2  # of rates, behind the point


def wanted(fields: Fields) -> bool:
    """Read the request: whether the whole cluster is asked for.  Error: InvalidRequest."""
    return fields.flag("Cluster")


def picture(found: Picture) -> Answer:
    """Write the answer."""
    return {
        "At": found.at, "Host": found.host, "EverySeconds": round(found.every_s, DIGITS),
        "Ready": found.ready,
        "Hosts": [_host(each) for each in found.hosts],
        "Networks": [_network(each) for each in found.networks],
        "Endpoints": [_endpoint(each) for each in found.endpoints],
        "Pairs": [_pair(each) for each in found.pairs],
        "Reasons": [_reason(each) for each in found.reasons],
        "Totals": [_path(each) for each in found.paths],
        "Refusals": [_refusal(each) for each in found.refusals],
        "More": {"Pairs": found.more_pairs, "Endpoints": found.more_endpoints}}


def _host(each: HostState) -> dict[str, object]:
    return {"Id": each.id, "Name": each.name, "Address": each.address, "State": each.state,
            "Version": each.version,
            "AgeSeconds": None if each.age_s is None else round(each.age_s, DIGITS),
            "Problems": list(each.problems)}


def _network(each: NetworkSeen) -> dict[str, object]:
    return {"Id": each.id, "Vni": each.vni, "Name": each.name,
            "Subnets": [{"Cidr": pool.cidr, "Used": pool.used, "Size": pool.size}
                        for pool in each.subnets],
            "HostPath": each.host_path, "Internal": each.internal}


def _endpoint(each: EndpointOf) -> dict[str, object]:
    one = each.endpoint
    return {"Id": one.id, "Vni": one.vni, "Container": one.container, "Host": each.host,
            "Address": None if one.address is None else str(one.address),
            "Address6": None if one.address6 is None else str(one.address6),
            "OffersHostPath": one.offers_host_path}


def _pair(each: PairOf) -> dict[str, object]:
    one = each.pair
    return {"From": _end(one.here), "To": _end(one.there), "Reporter": each.host,
            "Path": str(one.path), "Connections": one.connections,
            **_rates(one.opened_per_s, one.in_per_s, one.out_per_s)}


def _path(each: PathOf) -> dict[str, object]:
    one = each.path
    return {"Host": each.host, "Path": str(one.path), "Connections": one.connections,
            **_rates(one.opened_per_s, one.in_per_s, one.out_per_s)}


def _end(end: End) -> dict[str, object]:
    return {"Vni": end.vni, "Address": str(end.address)}


def _rates(opened: float, received: float, sent: float) -> dict[str, object]:
    return {"OpenedPerSecond": round(opened, DIGITS), "BytesInPerSecond": round(received, DIGITS),
            "BytesOutPerSecond": round(sent, DIGITS)}


def _reason(each: ReasonOf) -> dict[str, object]:
    one = each.reason
    return {"Host": each.host, "Name": one.name, "PerSecond": round(one.per_s, DIGITS),
            "Total": one.total, "Kind": one.kind}


def _refusal(each: Refusal) -> dict[str, object]:
    return {"At": each.at, "Host": each.host, "Container": each.container, "Name": each.name,
            "Peer": each.peer, "Count": each.count}
