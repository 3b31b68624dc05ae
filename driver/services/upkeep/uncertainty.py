"""Settles what is in doubt: entries of other hosts and of services that have no record.

What nobody has declared gone is kept and reported, and its owner is asked: a host says that all its
endpoints are on record, a manager that all services are.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from driver.errors import StoreUnavailable
from driver.model import Host, HostAddress, HostId, by_family
from driver.services.directory.publisher import HostDoubts, Publisher
from driver.services.ports import Answers, Directory, Publications
from driver.services.vips.mirror import VipMirror
from driver.work.shown import some_of

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
CALM_S: Final = 20.0  # between looks when the newest doubt is older than PATIENCE_S
PATIENCE_S: Final = 120.0
ASK_AFTER_S: Final = 10.0  # usually the owner of lost records enters them by itself
QUESTIONS: Final = 20  # hosts asked per look: after a total loss, all must be asked


class Uncertainty:
    """Settles doubts.  `run` is called at intervals, from one thread."""

    def __init__(self, *, publisher: Publisher, vips: VipMirror, directory: Directory,
                 answers: Answers, publications: Publications,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic; the same as the publisher's and the mirror's."""
        self._publisher = publisher
        self._vips = vips
        self._directory = directory
        self._answers = answers
        self._publications = publications
        self._clock = clock
        self._lock = threading.Lock()  # of the next one
        self._live: dict[HostAddress, Host] = {}
        self._reported: set[HostAddress] = set()  # hosts
        self._vips_reported = False
        self._pause_s = LOOK_S

    def hosts_changed(self, live: dict[HostId, Host]) -> None:
        """Take the hosts that have a lease; see ports.Hosts.follow."""
        with self._lock:
            self._live = {host.underlay: host for host in live.values()}

    def pause_s(self) -> float:
        """Return the seconds until the next `run`."""
        return self._pause_s

    def run(self) -> None:
        """Look, settle what has been answered, and ask."""
        hosts = self._publisher.uncertain().hosts
        swarms = self._vips.doubts()
        moments = [*(doubt.since_s for doubt in hosts.values()),
                   *(doubt.since_s for doubt in swarms.values())]
        self._pause_s = CALM_S if moments and (
            self._clock() - max(moments) > PATIENCE_S) else LOOK_S
        self._report(hosts)
        try:
            if hosts:
                self._settle_hosts(hosts)
            if swarms:
                self._settle_vips()
        except StoreUnavailable as error:
            log.debug("%s", error)  # etcd's absence is reported elsewhere

    def describe(self) -> str:
        """Describe for the status how many entries are in doubt, and whose; empty: none."""
        found = self._publisher.uncertain()
        parts = []
        if found.hosts:
            shown = ", ".join(f"{self.name_of(underlay)}: {doubts.count}" for underlay, doubts
                              in sorted(found.hosts.items(), key=lambda each: by_family(each[0])))
            parts.append(f"{found.missing} in doubt, kept though etcd lacks them ({shown})")
        if found.unlisted:
            parts.append(f"{found.unlisted} kept of networks that etcd does not have for this host")
        if found.unreadable:
            named = some_of([f"endpoint {each[:12]}" for each in found.unreadable], ", ")
            parts.append(f"{len(found.unreadable)} records cannot be read ({named})")
        if found.contested:
            parts.append(f"{found.contested} with an address that another one has, too")
        if found.out_of_reach:
            parts.append(f"{found.out_of_reach} left out: this host's underlay does not reach "
                         "theirs")
        return "; ".join(parts)

    def describe_vips(self) -> str:
        """Describe for the status which services are in doubt; empty: none."""
        found = self._vips.in_doubt()
        return (f"{len(found)} in doubt, kept though etcd lacks them ({_named(found)})" if found
                else "")

    def _settle_hosts(self, hosts: dict[HostAddress, HostDoubts]) -> None:
        answers = self._answers.all()
        removed = {answer.underlay: answer.revision for answer in answers.values()}
        said: dict[HostAddress, int] = {}
        to_ask = []
        with self._lock:
            live = dict(self._live)
        for underlay, doubts in hosts.items():
            host = live.get(underlay)
            revision = removed.get(underlay, 0) if host is None else (
                answers[host.id].revision if host.id in answers else 0)
            if revision:
                said[underlay] = revision
            if host is not None and revision < doubts.revision and (
                    self._clock() - doubts.since_s >= ASK_AFTER_S):
                to_ask.append((host.id, doubts.revision))
        for underlay, gone in self._publisher.settle(said, self._directory.read).items():
            log.info("%d endpoints of host %s went: it says that they are none of its",
                     gone, self.name_of(underlay))
        for host_id, revision in random.sample(to_ask, min(len(to_ask), QUESTIONS)):
            self._answers.ask(host_id, revision)

    def _settle_vips(self) -> None:
        said = self._publications.all()
        wanted = 0
        for swarm, doubt in self._vips.doubts().items():
            revision = said.get(swarm, 0)
            if gone := self._vips.settle(swarm, revision):
                log.info("%d services went: their swarm's manager says that there are none", gone)
            if swarm in said and revision < doubt.revision:
                wanted = max(wanted, doubt.revision)
        if wanted:
            self._publications.ask(wanted)

    def _report(self, hosts: dict[HostAddress, HostDoubts]) -> None:
        for underlay in hosts.keys() - self._reported:
            log.warning(
                "etcd lacks %d endpoints of host %s, which has not said that they are gone: they "
                "stay as they were known.  It is asked; if it does not answer: does its driver "
                "run?  If the host is gone for good: slim forget-host",
                hosts[underlay].count, self.name_of(underlay))
        for underlay in self._reported - hosts.keys():
            log.info("nothing of host %s is in doubt any more", self.name_of(underlay))
        self._reported = set(hosts)
        vips = self._vips.in_doubt()
        if vips and not self._vips_reported:
            log.warning("etcd lacks %d services (%s), or they cannot be read, without a word of "
                        "their managers: they stay as they were known", len(vips),
                        _named(vips))
        self._vips_reported = bool(vips)

    def name_of(self, underlay: HostAddress) -> str:
        """Return a host's name and address, for people."""
        with self._lock:
            host = self._live.get(underlay)
        return f"{host.name} ({underlay})" if host else f"{underlay}, not registered"


def _named(addresses: list[IPv4Address]) -> str:
    return some_of([str(each) for each in addresses], ", ")
