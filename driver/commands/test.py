"""Runs `slim test` directly on etcd, so that it works where no driver runs: asks all drivers.

The drivers test; here the result is shown, for people or as JSON.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any, Final

from driver.commands.hosts import another_cluster, find_host, open_etcd
from driver.commands.saying import say
from driver.commands.table import print_table
from driver.errors import Conflict, NotFound, SlimError
from driver.model import HostId
from driver.services.ports import TOKEN_BYTES, Round
from driver.services.testing.asking import Asking, Clock
from driver.services.testing.fault import natural
from driver.services.testing.judging import Judged, judge
from driver.services.testing.ways import Way
from driver.settings import Settings
from driver.state import host
from driver.store.hosts.absences import EtcdAbsences
from driver.store.rounds import EtcdRounds
from driver.work import deadline
from driver.work.shown import plain

ALL_WELL, FAULTS, COULD_NOT_RUN = 0, 1, 2  # exit statuses
LIMIT_S: Final = 90.0  # for everything, another round before this one included
WIDE: Final = 16  # hosts; with more, the matrix has signs in place of round trips


def run_test(settings: Settings, about: str, *, from_here: bool, as_json: bool) -> int:
    """Test, and print the result; return the exit status.

    about: a host's name or id: only ways from and to it; empty: all.  from_here: only ways from
    this host.
    """
    try:
        began_s = time.monotonic()
        with open_etcd(settings) as kv, deadline.limit(LIMIT_S):
            another = another_cluster(kv, settings)
            if another:
                raise Conflict(f"{another}: is --etcd right?")
            focus = HostId("")
            if from_here:
                focus = _own_id(settings)
            elif about:
                focus = find_host(EtcdAbsences(kv).known(), about).id
            found = judge(Asking(EtcdRounds(kv)).ask(Round(
                secrets.token_bytes(TOKEN_BYTES), socket.gethostname(), focus=focus,
                one_way=from_here)))
        took_s = time.monotonic() - began_s
    except SlimError as error:
        say(*f"slim test: {error}".split("\n"), to_errors=True)
        return COULD_NOT_RUN
    if not found.found.participants:
        _say_nobody(found)
        return COULD_NOT_RUN
    if as_json:
        print(json.dumps(as_object(found, took_s), indent=2))
    else:
        show(found, took_s)
    return ALL_WELL if found.all_well else FAULTS


def show(found: Judged, took_s: float) -> None:
    """Print the hosts, the matrix, and a line for each fault."""
    numbered = {host_id: str(number) for number, host_id in enumerate(_in_order(found), 1)}
    say(f"{len(numbered)} hosts, {len(found.found.participants)} took part; {len(found.ways)} "
        f"of {wanted_ways(found)} ways tested in {took_s:.1f} s", "")
    print_table([("#", "HOST", "UNDERLAY", "SLIM", "MTU", "ETCD", "CLOCK", "GUARD"),
                 *((number, found.names[host_id], *_host_cells(found, host_id))
                   for host_id, number in numbered.items())])
    say()
    cell = _sign if len(numbered) > WIDE else _round_trip
    print_table([("FROM", *(f"TO {number}" if number == "1" else number
                            for number in numbered.values())),
                 *((number, *(cell(found, sender, receiver) for receiver in numbered))
                   for sender, number in numbered.items())])
    say("", "round trips in ms" if len(numbered) <= WIDE else
        ". well  ~ with a hint  ! with a fault  ? not tested")
    for fault in found.faults:
        say(f"{'~' if fault.kind.is_hint else '!'} {fault.kind.shown}: {fault.text}")
    if not found.faults:
        say("all well")


def _in_order(found: Judged) -> list[HostId]:
    return sorted(found.names, key=lambda each: (natural(found.names[each]), each))


def wanted_ways(found: Judged) -> int:
    """Return how many ways there are between all hosts that are known."""
    return sum(found.found.asked.includes(sender, receiver)
               and not found.are_apart(sender, receiver)
               for sender in found.names for receiver in found.names)


def as_object(found: Judged, took_s: float) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        "took_s": round(took_s, 1),
        "all_well": found.all_well,
        "hosts": [_host_object(found, host_id) for host_id in _in_order(found)],
        "ways": [_way_object(found, way) for way in found.ways.values()],
        "faults": [{"kind": fault.kind.shown, "hint": fault.kind.is_hint, "text": fault.text,
                    "host": fault.host or None,
                    "ways": [{"from": sender, "to": receiver} for sender, receiver in fault.ways]}
                   for fault in found.faults]}


def _host_cells(found: Judged, host_id: HostId) -> tuple[str, ...]:
    each = found.found.participants.get(host_id)
    if each is None:
        host = found.host(host_id)
        return (str(host.underlay) if host else "?", *("-",) * 4,
                "does not answer" if host_id in found.found.live else "no driver")
    clock = found.found.clocks.get(host_id)
    return (str(each.underlay), plain(each.version) or "?", str(each.mtu),
            f"{each.etcd_us / 1000:.1f} ms",
            _ahead(clock) if clock else "-",
            "missing" if each.guard else "in force")


def _ahead(clock: Clock) -> str:
    """Return by how much a clock is ahead of this host's, as far as that is known."""
    if clock.least_s <= 0 <= clock.most_s:
        return f"±{max(-clock.least_s, clock.most_s):.1f} s"
    return f"{clock.least_s if clock.least_s > 0 else clock.most_s:+.1f} s"


def _round_trip(found: Judged, sender: HostId, receiver: HostId) -> str:
    if sender == receiver:
        return "-"
    way = found.ways.get((sender, receiver))
    if way is None:
        return "families" if found.are_apart(sender, receiver) else "?"
    serious = [kind for kind in way.kinds if not kind.is_hint]
    if serious:
        return min(serious).shown
    return f"{way.sent.rtt_us / 1000:.2f}" if way.sent.rtt_us >= 0 else "ok"


def _sign(found: Judged, sender: HostId, receiver: HostId) -> str:
    way = found.ways.get((sender, receiver))
    if way is None:
        return "-" if sender == receiver or found.are_apart(sender, receiver) else "?"
    if not way.kinds:
        return "."
    return "~" if all(kind.is_hint for kind in way.kinds) else "!"


def _host_object(found: Judged, host_id: HostId) -> dict[str, Any]:
    each = found.found.participants.get(host_id)
    clock = found.found.clocks.get(host_id)
    shown: dict[str, Any] = {"id": host_id, "name": found.names[host_id],
                             "alive": host_id in found.found.live,
                             "took_part": each is not None}
    if each is not None:
        shown |= {"underlay": str(each.underlay), "version": each.version, "layout": each.layout,
                  "vxlan_port": each.vxlan_port, "ports": list(each.ports), "mtu": each.mtu,
                  "guard_in_force": not each.guard, "etcd_ms": each.etcd_us / 1000}
    if clock is not None:
        shown["clock_ahead_s"] = {"least": clock.least_s, "most": clock.most_s}
    return shown


def _way_object(found: Judged, way: Way) -> dict[str, Any]:
    return {"from": way.sender.host, "to": way.receiver.host,
            "from_name": found.names[way.sender.host], "to_name": found.names[way.receiver.host],
            "wrong": [kind.shown for kind in sorted(way.kinds)],
            "round_trip_ms": way.sent.rtt_us / 1000 if way.sent.rtt_us >= 0 else None,
            "udp_arrived": sorted(way.heard.arrived), "udp_passed": sorted(way.heard.passed),
            "udp_damaged": sorted(way.heard.damaged), "path_mtu": way.heard.whole,
            "told_mtu": way.sent.told_mtu or None, "syns": sorted(way.heard.syns),
            "syns_stripped": sorted(way.heard.stripped)}


def _say_nobody(found: Judged) -> None:
    say("slim test: no driver took part: is `slim serve` of this version running anywhere?",
        to_errors=True)
    for fault in found.faults:
        say(f"! {fault.text}", to_errors=True)


def _own_id(settings: Settings) -> HostId:
    try:
        text = (Path(settings.state) / host.ID_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"this host has no id yet ({error}): has a driver run here?") from None
    return HostId(text)
