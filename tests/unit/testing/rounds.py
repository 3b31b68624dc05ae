"""Rounds for tests: hosts that are well, and what each hears of the others where all is well."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from driver.model import Host, HostId, KnownHost
from driver.services.ports import Heard, Participant, Round, Row, Sent
from driver.services.testing import plan
from driver.services.testing.asking import Clock, Collected

TOKEN = bytes(range(8))
ROUND = Round(TOKEN, "a")


def participant(number: int, **changed: Any) -> Participant:
    """Host 1 is "a", and so on."""
    return replace(Participant(
        HostId(f"{number:032x}"), "-abcdefgh"[number], IPv4Address(f"10.0.0.{number}"), "1.0", 2,
        14789, (61000, 65535), "eth0", 1500, "", 900, 0), **changed)


def host(each: Participant, **changed: Any) -> Host:
    return replace(Host(each.host, each.name, each.underlay, True, each.version), **changed)


def well(sender: Participant, receiver: Participant) -> Heard:
    sizes = frozenset(plan.sizes(sender, receiver))
    return Heard(sizes, sizes, whole=plan.mtu(sender, receiver), syns=frozenset(receiver.ports))


def collected(*participants: Participant, asked: Round = ROUND,
              silent: Collection[Participant] = (), absent: Collection[Participant] = (),
              unfinished: Collection[Participant] = ()) -> Collected:
    """All is well between the participants; silent: alive only; absent: known only."""
    rows = {me.host: Row(
        me.host,
        {other.underlay: Sent(rtt_us=120) for other in participants
         if asked.includes(me.host, other.host)},
        {other.underlay: well(other, me) for other in participants
         if asked.includes(other.host, me.host)})
        for me in participants if me not in unfinished}
    alive = (*participants, *silent)
    return Collected(
        asked, {each.host: KnownHost(host(each), 0) for each in (*alive, *absent)},
        {each.host: host(each) for each in alive}, {each.host: each for each in participants},
        rows, {each.host: Clock(-0.1, 0.1) for each in participants})


def changed(found: Collected, sender: Participant, receiver: Participant, *,
            sent: dict[str, Any] | None = None, heard: dict[str, Any] | None = None) -> Collected:
    """Change what both ends say of one way."""
    rows = dict(found.rows)
    row = rows[sender.host]
    rows[sender.host] = replace(row, sent={**row.sent, receiver.underlay: replace(
        row.sent[receiver.underlay], **(sent or {}))})
    row = rows[receiver.host]
    rows[receiver.host] = replace(row, heard={**row.heard, sender.underlay: replace(
        row.heard[sender.underlay], **(heard or {}))})
    return replace(found, rows=rows)
