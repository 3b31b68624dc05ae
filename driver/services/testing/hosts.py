"""Judges each host by itself: whether it answered, and how it is set up beside the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from shlex import quote
from statistics import median_low
from typing import Final

from driver.model import HostId
from driver.services.ports import Participant
from driver.services.testing.asking import Clock, Collected
from driver.services.testing.fault import Fault, Kind, listed

ETCD_US: Final = 500_000  # a container's start needs several such answers
CLOCK_S: Final = 2.0  # certificates and tokens of a cluster, and logs, go by the clocks

Name = Callable[[HostId], str]


def faults(found: Collected, name: Name) -> list[Fault]:
    """Return what is wrong with hosts.  name: what people call a host."""
    participants = list(found.participants.values())
    return [*_absent(found, name), *_each(participants, name), *_clocks(found.clocks, name),
            *_differing(participants, name), *_families(found, name)]


def _absent(found: Collected, name: Name) -> Iterable[Fault]:
    for host_id, known in found.known.items():
        if host_id not in found.live:
            called = name(host_id)
            yield Fault(Kind.NO_DRIVER, (
                f"{called} ({known.host.underlay}): no driver runs there, or it does not reach "
                f"etcd: there, systemctl start slim, and slim status; if it never comes back, "
                f"slim forget-host {quote(called)}"), host=host_id)
    for host_id, host in found.live.items():
        if host_id in found.participants:
            if host_id not in found.rows:
                yield Fault(Kind.UNFINISHED, (
                    f"{name(host_id)} ({host.underlay}): began the test and did not finish in "
                    "time: there, slim status, and its log"), host=host_id)
        elif not host.version:
            yield Fault(Kind.NO_ANSWER, (
                f"{name(host_id)} ({host.underlay}): its driver is too old to take part: "
                "upgrade slim there"), host=host_id)
        else:
            yield Fault(Kind.NO_ANSWER, (
                f"{name(host_id)} ({host.underlay}): its driver ({host.version}) is alive and "
                "does not answer: there, slim status, and its log"), host=host_id)


def _each(participants: Iterable[Participant], name: Name) -> Iterable[Fault]:
    for each in participants:
        if each.guard:
            yield Fault(Kind.GUARD, (
                f"{name(each.host)}: the guard is not in force ({each.guard}): there, slim "
                "doctor (docs/operations.md, Attacks)"), host=each.host)
        if each.etcd_us > ETCD_US:
            yield Fault(Kind.ETCD, (
                f"{name(each.host)}: etcd answers in {each.etcd_us / 1000:.0f} ms: is the network "
                "to it slow, or its disk?  (docs/recovery.md)"), host=each.host)


def _clocks(clocks: Mapping[HostId, Clock], name: Name) -> Iterable[Fault]:
    """Compare each clock with the middle one of all: the asker's own may be the one that is off."""
    if not clocks:
        return
    # Of two, one is as good as the other.
    usual = median_low((each.least_s + each.most_s) / 2 for each in clocks.values())
    for host_id, each in clocks.items():
        # How far it is off at least.
        if each.least_s - usual > CLOCK_S:
            off = f"{each.least_s - usual:.0f} s ahead of"
        elif usual - each.most_s > CLOCK_S:
            off = f"{usual - each.most_s:.0f} s behind"
        else:
            continue
        others = "most other hosts'" if len(clocks) > 2 else "the other host's"
        yield Fault(Kind.CLOCK, (
            f"{name(host_id)}: its clock is {off} {others}: synchronize the clocks "
            "(timedatectl set-ntp true, or chrony)"), host=host_id)


def _differing(participants: list[Participant], name: Name) -> Iterable[Fault]:
    def by(kind: Kind, what: str, of: Callable[[Participant], object], do: str) -> Iterable[Fault]:
        usual = Counter(map(of, participants)).most_common()
        if len(usual) > 1:
            said = "; ".join(
                f"{value}: " + listed(name(each.host) for each in participants
                                      if of(each) == value) for value, _ in usual)
            yield Fault(kind, f"hosts have different {what} ({said}): {do}")

    yield from by(Kind.PORTS, "VXLAN ports", lambda each: each.vxlan_port,
                  "give all the same --vxlan-port")
    yield from by(Kind.MTUS, "MTUs", lambda each: each.mtu,
                  "give the underlay's devices the same")
    yield from by(Kind.VERSIONS, "versions of slim",
                  lambda each: f"{each.version}, maps v{each.layout}", "upgrade the older ones")


def _families(found: Collected, name: Name) -> Iterable[Fault]:
    """Name the hosts of the family that fewer have: nobody is at fault, and it is to be known."""
    six = [host_id for host_id, host in found.live.items() if host.underlay.version == 6]
    four = [host_id for host_id, host in found.live.items() if host.underlay.version == 4]
    if six and four:
        yield Fault(Kind.FAMILIES, (
            f"the underlays of {listed(map(name, four))} are IPv4, those of "
            f"{listed(map(name, six))} IPv6: between the two nothing passes, by design; give all "
            "hosts the same kind of --underlay (docs/settings.md)"))
