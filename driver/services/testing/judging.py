"""Makes of all that a round has brought what people and programs are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from driver.model import Host, HostId
from driver.services.ports import Heard, Round, Sent
from driver.services.testing import hosts, ways
from driver.services.testing.asking import Collected
from driver.services.testing.fault import ABSENT, Fault
from driver.services.testing.plan import apart
from driver.services.testing.ways import Way
from driver.work.shown import plain

ID_SHOWN = 12  # digits of a host's id, where hosts have the same name


@dataclass(frozen=True)
class Judged:
    """What was found."""

    found: Collected
    names: dict[HostId, str]  # of all known hosts, for people: no two are the same
    ways: dict[tuple[HostId, HostId], Way]
    faults: tuple[Fault, ...]  # the worst first

    @property
    def all_well(self) -> bool:
        """Tell whether there is nothing but hints."""
        return all(fault.kind.is_hint for fault in self.faults)

    def host(self, host_id: HostId) -> Host | None:
        """Return a host as it is, or as it was last."""
        known = self.found.known.get(host_id)
        return self.found.live.get(host_id) or (known.host if known is not None else None)

    def are_apart(self, sender: HostId, receiver: HostId) -> bool:
        """Tell whether two hosts do not reach each other by design."""
        ends = [host.underlay for each in (sender, receiver)
                if (host := self.host(each)) is not None]
        return len(ends) == 2 and apart(*ends)


def judge(found: Collected) -> Judged:
    """Judge a round: if it has a focus, only what concerns that host."""
    names = _names(found)
    name = _namer(names)
    judged = [ways.judge(
        sender, receiver, found.rows[sender.host].sent.get(receiver.underlay, Sent()),
        found.rows[receiver.host].heard.get(sender.underlay, Heard()))
        for sender in found.participants.values() for receiver in found.participants.values()
        if found.asked.includes(sender.host, receiver.host)
        and not apart(sender.underlay, receiver.underlay)
        and sender.host in found.rows and receiver.host in found.rows]
    faults = [replace(fault, text=plain(fault.text))
              for fault in (*hosts.faults(found, name), *ways.faults(judged, name))
              if _concerns(fault, found.asked)]
    return Judged(found, names, {way.ends: way for way in judged},
                  tuple(sorted(faults, key=lambda fault: (fault.kind, fault.text))))


def _concerns(fault: Fault, asked: Round) -> bool:
    return (not asked.focus or not fault.host or fault.host == asked.focus
            or (asked.one_way and fault.kind in ABSENT))


def _names(found: Collected) -> dict[HostId, str]:
    called = {host_id: plain(known.host.name) or "?" for host_id, known in found.known.items()}
    called |= {host_id: plain(host.name) or "?" for host_id, host in found.live.items()}
    times = Counter(called.values())
    return {host_id: name if times[name] == 1 else f"{name}/{host_id[:ID_SHOWN]}"
            for host_id, name in called.items()}


def _namer(names: dict[HostId, str]) -> Callable[[HostId], str]:
    return lambda host_id: names.get(host_id, host_id[:ID_SHOWN])
