"""Encodes and decodes the records of tests; the values are as in records.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from driver.model import HostId
from driver.services.ports import TOKEN_BYTES, Heard, Participant, Round, Row, Sent
from driver.store.format.records import Fields, host_address

_TEXT_MAX: Final = 300  # characters of a text for people
_PORT_LAST: Final = 65535
_US_MAX: Final = 1 << 53
_BYTES_MAX: Final = 1 << 16


def round_fields(asked: Round) -> Fields:
    """Return a test as it is asked for."""
    return {"token": asked.token.hex(), "asker": asked.asker, "lease": asked.lease,
            "go": asked.go, "focus": asked.focus, "one_way": asked.one_way}


def round_(fields: Fields) -> Round:
    """Inverse of round_fields."""
    token = bytes.fromhex(_text(fields["token"]))
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"{len(token)} bytes are no token")
    return Round(token, _text(fields["asker"]), _number(fields["lease"], 1 << 63),
                 fields["go"] is True, HostId(_text(fields["focus"])), fields["one_way"] is True)


def participant_fields(each: Participant) -> Fields:
    """Return a host that takes part."""
    return {"id": each.host, "name": each.name, "underlay": str(each.underlay),
            "version": each.version, "layout": each.layout, "vxlan_port": each.vxlan_port,
            "ports": list(each.ports), "device": each.device, "mtu": each.mtu,
            "guard": each.guard, "etcd_us": each.etcd_us, "clock_us": each.clock_us}


def participant(fields: Fields) -> Participant:
    """Inverse of participant_fields."""
    ports = tuple(_number(each, _PORT_LAST) for each in fields["ports"])
    if len(ports) not in (0, 2):
        raise ValueError(f"{len(ports)} ports are no range")
    return Participant(
        HostId(_text(fields["id"])), _text(fields["name"]), host_address(fields["underlay"]),
        _text(fields["version"]), _number(fields["layout"]),
        _number(fields["vxlan_port"], _PORT_LAST), ports, _text(fields["device"]),
        _number(fields["mtu"]), _text(fields["guard"]), _number(fields["etcd_us"], _US_MAX),
        _number(fields["clock_us"], _US_MAX))


def row_fields(row: Row) -> Fields:
    """Return what a host has learnt; what is as usual is left out."""
    return {"id": row.host,
            "sent": {str(host): _short({
                "rtt_us": each.rtt_us, "refused": each.refused,
                "syns_refused": each.syns_refused, "told_mtu": each.told_mtu,
                "trouble": each.trouble}) for host, each in row.sent.items()},
            "heard": {str(host): _short({
                "arrived": sorted(each.arrived), "passed": sorted(each.passed),
                "damaged": sorted(each.damaged), "whole": each.whole, "syns": sorted(each.syns),
                "stripped": sorted(each.stripped), "seen_as": each.seen_as})
                for host, each in row.heard.items()}}


def row(fields: Fields) -> Row:
    """Inverse of row_fields."""
    return Row(HostId(_text(fields["id"])),
               {host_address(host): _sent(each) for host, each in fields["sent"].items()},
               {host_address(host): _heard(each) for host, each in fields["heard"].items()})


def _sent(fields: Mapping[str, Any]) -> Sent:
    return Sent(_number(fields.get("rtt_us", -1), _US_MAX, -1), _text(fields.get("refused", "")),
                _text(fields.get("syns_refused", "")), _number(fields.get("told_mtu", 0)),
                _text(fields.get("trouble", "")))


def _heard(fields: Mapping[str, Any]) -> Heard:
    return Heard(_numbers(fields, "arrived"), _numbers(fields, "passed"),
                 _numbers(fields, "damaged"), _number(fields.get("whole", 0)),
                 _numbers(fields, "syns"), _numbers(fields, "stripped"),
                 _text(fields.get("seen_as", "")))


def _short(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value not in ("", 0, [])}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value[:_TEXT_MAX]


def _number(value: Any, last: int = _BYTES_MAX, first: int = 0) -> int:
    if type(value) is not int or not first <= value <= last:
        raise ValueError(f"{value!r} is no number from {first} to {last}")
    return value


def _numbers(fields: Mapping[str, Any], name: str) -> frozenset[int]:
    return frozenset(_number(each) for each in fields.get(name, ()))
