"""Asks other hosts for a sign of life: with pings, then with SYNs to endpoint ports.

A firewall between the hosts may drop pings, but not those SYNs: the host path needs them.  The
kernel there answers them, whether or not the driver runs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from driver.errors import DatapathError, LinkError
from driver.model import HostAddress
from driver.services.peers.index import PeerIndex
from driver.services.ports import Presence, Probe, Prober, Reply, SynProber

log = logging.getLogger(__name__)

NOBODY = 0  # a caller's port that is no endpoint's


class SignsOfLife:
    """Implements services.ports.Prober; for one thread."""

    def __init__(self, pings: Prober, syns: SynProber, index: PeerIndex, last_port: int) -> None:
        """last_port: the last endpoint port, probed where no endpoint is known.

        Usually no endpoint has it, so the host itself refuses.
        """
        self._pings = pings
        self._syns = syns
        self._index = index
        self._last_port = last_port
        self._cannot = ""  # why no SYN can be sent

    def probe(self, hosts: Collection[HostAddress], wait_s: float
              ) -> dict[HostAddress, Presence]:
        """See ports.Prober.  Waits at most `wait_s` each for pings and SYNs."""
        found = self._pings.probe(hosts, wait_s)
        rest = [host for host, presence in found.items() if presence is not Presence.ANSWERED
                and host.version == self._index.version]
        for host in self._answering(rest, wait_s) if rest else ():
            found[host] = Presence.ANSWERED
        return found

    def _answering(self, hosts: Collection[HostAddress], wait_s: float) -> set[HostAddress]:
        probes = [probe for host in hosts for probe in self._probes(host)]
        try:
            replies = self._syns.ask(probes, wait_s)
        except (LinkError, DatapathError) as error:  # such as without CAP_NET_RAW
            if str(error) != self._cannot:
                log.warning("hosts are asked for a sign of life by pings only: %s", error)
            self._cannot = str(error)
            return set()
        self._cannot = ""
        # Whoever refuses: a firewall may do it in the host's name, but a host in doubt is kept.
        return {probe.host for probe, reply in replies.items()
                if reply in (Reply.PROVEN, Reply.PLAIN)}

    def _probes(self, host: HostAddress) -> list[Probe]:
        # The oldest endpoints on both sides: a host whose driver is away knows no others.
        return [Probe(host, target.port, caller) for target in self._index.targets(host, (), _first)
                for caller in target.callers] or [Probe(host, self._last_port, NOBODY)]


def _first(_count: int) -> int:
    return 0
