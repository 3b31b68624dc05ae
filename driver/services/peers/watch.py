"""Probes whether the host path's SYNs reach each other host, and blocks hosts they do not reach.

etcd takes no part in this.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from driver.errors import LinkError
from driver.model import Host, HostAddress, HostId
from driver.services.peers.index import PeerIndex, Target
from driver.services.peers.trouble import Kind, Trouble, advice, named
from driver.services.ports import HostPaths, Presence, Probe, Prober, Reply, SynProber

log = logging.getLogger(__name__)

INTERVAL_S: Final = 0.25  # between two runs: a verdict must precede a SYN's second time-out
ATTEMPTS: Final = 3  # at each target: three lost packets are no accident
WAIT_S: Final = 0.4  # for the answers to one attempt
OPEN_S: Final = 60.0  # between probes of a peer that answers, plus or minus a quarter
BLOCKED_S: Final = 5.0  # between probes of a peer that does not answer
DOUBT_S: Final = 2.0  # after a probe, before unanswered real connections trigger another
# A peer, or this host's first endpoint in its network, may not be known everywhere yet.  Silence
# then means something only if real connections had no answer either.
FRESH_S: Final = 5.0
FRESH_AGAIN_S: Final = 1.0
PRESENCE_S: Final = 1.0  # to wait for a ping
# How long a host that has a lease may answer nothing at all before connections that are being made
# fail: an outage that is shorter costs them no more than it costs the host's own.
OUTAGE_S: Final = 30.0
SUSPECTS: Final = 8  # ports of one host that are probed at a time because of real connections


@dataclass
class _Peer:
    """What is known of one host."""

    since_s: float
    due_s: float
    asked_s: float = -1e9
    suspects: set[int] = field(default_factory=set)  # ports that did not answer real SYNs
    trouble: Trouble | None = None  # None: SYNs get through, as far as is known
    answered: bool = False  # at the last verdict
    silent_s: float = 0.0  # when it was first found to answer nothing


class PeerWatch:
    """Probes and judges the peers.  `run` is called at intervals, from one thread."""

    def __init__(self, *, index: PeerIndex, syns: SynProber, presence: Prober, paths: HostPaths,
                 ports: str, settled: Callable[[], bool],
                 clock: Callable[[], float] = time.monotonic,
                 chance: random.Random | None = None) -> None:
        """ports: the range of endpoint ports, for people.  settled: whether etcd has been read.

        clock: seconds, monotonic.
        """
        self._index = index
        self._syns = syns
        self._presence = presence
        self._paths = paths
        self._ports = ports
        self._settled = settled
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - it is no secret
        self._lock = threading.Lock()  # of the next four
        self._peers: dict[HostAddress, _Peer] = {}
        self._live: dict[HostAddress, Host] = {}
        self._known: dict[HostAddress, Host] = {}  # live hosts, and peers whose lease has ended
        self._returned: set[HostAddress] = set()  # those that got a lease since the last run
        self._cannot = ""  # why no probe can be sent
        self._proves: set[HostAddress] = set()  # gave a proof once: used for hosts without a record
        self._inherited = set(paths.blocked())
        self._written = frozenset(self._inherited), frozenset[HostAddress]()
        self._settled_s: float | None = None

    def hosts_changed(self, live: Mapping[HostId, Host]) -> None:
        """Take all hosts that have a lease, at first and at each change."""
        with self._lock:
            before, self._live = self._live, {
                host.underlay: host for host in live.values()
                if host.underlay.version == self._index.version}
            self._returned |= self._live.keys() - before.keys()
            self._known = {host: known for host, known in self._known.items()
                           if host in self._peers} | self._live

    def run(self) -> None:
        """Probe the peers that are due, and act.  Error: DatapathError."""
        self._follow_index()
        now_s = self._clock()
        for host, port in self._paths.take_unanswered():
            if host in self._peers and len(self._peers[host].suspects) < SUSPECTS:
                self._peers[host].suspects.add(port)
        due = [host for host, peer in self._peers.items() if now_s >= peer.due_s or (
            peer.suspects and peer.trouble is None and now_s >= peer.asked_s + DOUBT_S)]
        if due:
            self._judge_all(due)
        self._write()

    def counts(self) -> dict[str, int]:
        """Count the peers by verdict: open, unprobed, or what is wrong (trouble.Kind)."""
        with self._lock:
            peers = [(peer.trouble, peer.answered) for peer in self._peers.values()]
        counts = dict.fromkeys(("open", "unprobed", *(kind.name.lower() for kind in Kind)), 0)
        for trouble, answered in peers:
            counts[trouble.kind.name.lower() if trouble is not None
                   else "open" if answered else "unprobed"] += 1
        return counts

    def describe(self) -> str:
        """Say in one line how many peers there are and which are blocked."""
        with self._lock:
            peers = dict(self._peers)
        open_ = sum(peer.trouble is None and peer.answered for peer in peers.values())
        unknown = sum(peer.trouble is None for peer in peers.values()) - open_
        blocked = self.blocked()
        return f"{open_} on the host path" + (
            f", {unknown} not probed yet" if unknown else "") + (
            f", {len(blocked)} blocked: {'; '.join(blocked)}" if blocked else "") + (
            f"; {self._cannot}" if self._cannot else "")

    def blocked(self) -> list[str]:
        """Return a text for each blocked peer, except those that seem dead."""
        troubles = self.troubles()
        with self._lock:
            return [f"{self._name(host)}: {trouble}" for host, trouble in sorted(troubles.items())]

    def troubles(self) -> dict[HostAddress, str]:
        """Return the same by host, each without the host's name."""
        with self._lock:
            return {host: str(peer.trouble) for host, peer in self._peers.items()
                    if peer.trouble is not None and not self._is_dead(host, peer.trouble)}

    def explain(self, host: HostAddress) -> str:
        """Say why SYNs do not get through to a host, and the likely cause; "": not known."""
        with self._lock:
            trouble = self._peers[host].trouble if host in self._peers else None
        return "" if trouble is None else f"{trouble}; {advice(trouble, self._ports)}"

    def _follow_index(self) -> None:
        hosts, now_s = self._index.hosts(), self._clock()
        with self._lock:
            for host in self._peers.keys() - hosts:
                del self._peers[host]
                self._proves.discard(host)
            for host in hosts - self._peers.keys():
                self._peers[host] = _Peer(now_s, now_s)
                if host in self._inherited:
                    self._peers[host].trouble = Trouble(Kind.UNKNOWN)
            for host in self._returned & hosts:
                self._peers[host].due_s = now_s
            self._returned.clear()
            self._inherited -= hosts
            if self._settled_s is None and self._settled():
                self._settled_s = now_s
            if self._settled_s is not None and now_s >= self._settled_s + OPEN_S:
                self._inherited.clear()  # no peers any more

    def _judge_all(self, hosts: Collection[HostAddress]) -> None:
        targets = {host: self._index.targets(host, self._peers[host].suspects,
                                             self._chance.randrange) for host in hosts}
        replies = self._ask([target for found in targets.values() for target in found])
        found = {host: self._judge(host, targets[host], replies) for host in hosts}
        log.debug("probed %s", ", ".join(
            f"{at.host}:{at.port} {reply.name.lower()}" for at, reply in replies.items()))
        for host in [host for host, trouble in found.items() if self._is_early(host, trouble)]:
            self._peers[host].due_s = self._clock() + FRESH_AGAIN_S
            del found[host]
        lost = [host for host, trouble in found.items()
                if trouble is not None and trouble.kind is Kind.DROPPED]
        silent: set[HostAddress] = set()
        if lost:
            self._write(also=lost)  # finding the exact cause takes another second
            silent = self._silent(lost)
        for host, trouble in found.items():
            self._enter(host, Trouble(Kind.SILENT) if host in silent else trouble)

    def _ask(self, targets: Collection[Target]) -> dict[Target, Reply]:
        """Probe each target until it answers, each time from another endpoint if there are more."""
        best: dict[Target, Reply] = {}
        for attempt in range(ATTEMPTS):
            asked = {Probe(target.host, target.port, target.callers[attempt % len(target.callers)]):
                     target for target in targets
                     if best.get(target) not in (Reply.PROVEN, Reply.PLAIN)}
            if not asked:
                break
            for probe, reply in self._send(asked).items():
                target = asked[probe]
                if reply is not Reply.UNSENT or target not in best:
                    best[target] = reply
                if reply is Reply.PROVEN:
                    self._proves.add(target.host)
        return best

    def _send(self, probes: Collection[Probe]) -> Mapping[Probe, Reply]:
        cannot = ""
        try:
            replies = self._syns.ask(probes, WAIT_S)
            if set(replies.values()) == {Reply.UNSENT}:
                cannot = "cannot send probes: does this host's own packet filter drop them?"
        except LinkError as error:  # CAP_NET_RAW is missing
            replies, cannot = dict.fromkeys(probes, Reply.UNSENT), str(error)
        if cannot and cannot != self._cannot:
            log.warning("peers: %s", cannot)
        self._cannot = cannot
        return replies

    def _judge(self, host: HostAddress, targets: Iterable[Target],
               replies: Mapping[Target, Reply]) -> Trouble | None:
        """Return the trouble; None: SYNs get through, or are not known to fail."""
        peer = self._peers[host]
        found = {target.port: replies[target] for target in targets
                 if replies[target] is not Reply.UNSENT}
        if not found:
            return peer.trouble
        known = self._known.get(host)
        proves = known.answers_probes if known is not None else host in self._proves
        good = (Reply.PROVEN,) if proves else (Reply.PROVEN, Reply.PLAIN)
        peer.answered = False
        missed = {port for port, reply in found.items() if reply not in good}
        if len(missed) == len(found):
            return Trouble(Kind.REFUSED if Reply.PLAIN in found.values() else Kind.DROPPED)
        # A host that gives no proof may have an endpoint that answers nobody.
        decisive = peer.suspects & missed if proves else set[int]()
        peer.answered = not decisive
        return Trouble(Kind.PARTLY, tuple(sorted(decisive))) if decisive else None

    def _is_early(self, host: HostAddress, trouble: Trouble | None) -> bool:
        peer = self._peers[host]
        return (trouble is not None and peer.trouble is None and not peer.suspects
                and self._clock() < peer.since_s + FRESH_S)

    def _silent(self, hosts: Collection[HostAddress]) -> set[HostAddress]:
        try:
            answers = self._presence.probe(hosts, PRESENCE_S)
        except LinkError as error:
            log.error("%s", error)
            return set()
        return {host for host in hosts if answers[host] is not Presence.ANSWERED}

    def _enter(self, host: HostAddress, trouble: Trouble | None) -> None:
        peer, now_s = self._peers[host], self._clock()
        peer.asked_s = now_s
        peer.suspects = set(trouble.ports) if trouble is not None else set()
        pause_s = OPEN_S * self._chance.uniform(0.75, 1.25) if trouble is None else BLOCKED_S
        peer.due_s = now_s + pause_s
        with self._lock:
            before, peer.trouble = peer.trouble, trouble
            if trouble != before:
                if trouble is not None and trouble.kind is Kind.SILENT:
                    peer.silent_s = now_s
                self._tell(host, trouble)

    def _tell(self, host: HostAddress, trouble: Trouble | None) -> None:
        if trouble is None:
            log.warning("host %s gets SYNs of the host path again: new connections to its "
                        "containers take it", self._name(host))
        elif not self._is_dead(host, trouble):
            log.warning("host %s: %s; new connections to its containers take the overlay path; %s",
                        self._name(host), trouble, advice(trouble, self._ports))

    def _is_dead(self, host: HostAddress, trouble: Trouble) -> bool:
        """Return whether this is HostWatch's matter: no lease and no sign of life."""
        return trouble.kind is Kind.SILENT and host in self._known and host not in self._live

    def _name(self, host: HostAddress) -> str:
        return named(self._known[host].name if host in self._known else "", host)

    def _write(self, also: Collection[HostAddress] = ()) -> None:
        """also: hosts that answer no SYN; whether they answer anything is not known yet."""
        wanted = frozenset(self._inherited).union(also, (
            host for host, peer in self._peers.items() if peer.trouble is not None))
        patient = frozenset(host for host in wanted if self._may_be_short(host, host in also))
        if (wanted, patient) != self._written:
            self._paths.block(wanted, patient)
            self._written = wanted, patient

    def _may_be_short(self, host: HostAddress, unknown: bool) -> bool:
        """Return whether this looks like an outage that ends soon, not like a firewall."""
        trouble = self._peers[host].trouble if host in self._peers else None
        if trouble is None:
            return unknown
        return trouble.kind is Kind.SILENT and host in self._live and (
            self._clock() < self._peers[host].silent_s + OUTAGE_S)
