"""Says of each host whether it tells of itself, and if not, why.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from driver.model import Host, HostId
from driver.services.ports import HostSeen, Summary
from driver.services.watching.sharing import Heard, Others

GRACE_S: Final = 8.0  # for a host to begin to tell
LATE_S: Final = 6.0  # beyond what it says is its interval, twice

HERE, OK, SILENT, GONE, UNKNOWN = "here", "ok", "silent", "gone", "unknown"


@dataclass(frozen=True)
class HostState:
    """A host, for people; of one that is silent, what it told last is kept."""

    id: HostId
    name: str
    address: str
    state: str  # here, ok, silent, gone or unknown
    version: str
    age_s: float | None  # of what it told last
    problems: tuple[str, ...] = ()
    summary: Summary | None = None


def here(host: Host, summary: Summary | None, problem: str) -> HostState:
    """Return this host's own state."""
    problems = tuple(filter(None, (*(summary.problems if summary else ()), problem)))
    return HostState(host.id, host.name, str(host.underlay), HERE, host.version, 0.0, problems,
                     summary)


def not_asked(seen: HostSeen) -> HostState:
    """Return the state of another host while this one alone is looked at."""
    host = seen.host
    return HostState(host.id, host.name, str(host.underlay), UNKNOWN, host.version, None,
                     ("not asked: this is the picture of one host",))


def all_others(me: HostId, hosts: Iterable[HostSeen], others: Others, now_s: float
               ) -> list[HostState]:
    """Return the states of all other hosts, those that were heard before and are no more, too."""
    seen = {each.host.id: each for each in hosts}
    return [_state(each, others.heard.get(host), others, now_s)
            for host, each in seen.items() if host != me] + [
        HostState(host, host[:12], "", SILENT if heard.summary else UNKNOWN,
                  heard.summary.version if heard.summary else "", now_s - heard.at_s,
                  (heard.problem or "it is not registered any more",), heard.summary)
        for host, heard in others.heard.items() if host not in seen and host != me]


def _state(seen: HostSeen, heard: Heard | None, others: Others, now_s: float) -> HostState:
    host = seen.host
    summary = heard.summary if heard else None
    age_s = now_s - heard.at_s if heard else None
    state, why = _judge(seen, heard, others, now_s)
    told = summary.problems if summary and state == OK else ()
    return HostState(host.id, host.name, str(host.underlay), state,
                     (summary.version if summary else "") or host.version, age_s,
                     tuple(filter(None, (why, *told))), summary)


def _judge(seen: HostSeen, heard: Heard | None, others: Others, now_s: float) -> tuple[str, str]:
    """Return the state, and the reason if it is not well."""
    if seen.gone:
        return GONE, "it has no lease and gives no sign of life"
    if heard is not None and heard.problem:
        return UNKNOWN, heard.problem
    age_s = now_s - heard.at_s if heard else 0.0
    if heard is not None and heard.summary is not None and (
            age_s < 2 * heard.summary.every_s + LATE_S):
        return OK, ""
    waited_s = now_s - others.since_s
    if heard is None and seen.registered and not others.problem and waited_s < GRACE_S:
        return UNKNOWN, "it was asked a moment ago, and has not answered yet"
    return SILENT, _why_silent(seen, heard, others, now_s)


def _why_silent(seen: HostSeen, heard: Heard | None, others: Others, now_s: float) -> str:
    if others.problem:
        return "it cannot be asked: etcd does not answer this host"
    if not seen.registered:
        return "it has no lease: its driver is stopped, or does not reach etcd"
    if heard is not None:
        return f"it has told nothing for {now_s - heard.at_s:.0f} s: does its driver reach etcd?"
    return (f"asked for {now_s - others.since_s:.0f} s, it has not answered: is its driver of a "
            "version without `slim top`, or is it just starting?")
