"""A cluster without processes: etcd's members as etcd itself guards them, hosts, and the steward.

Each host's keeper is reduced to what it does to its own member; the steward is the real one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from driver.cluster.etcd import plan
from driver.cluster.etcd.members import Membership
from driver.cluster.etcd.steward import Steward
from driver.cluster.model import (
    ClusterHost,
    Member,
    MemberHealth,
    Role,
    client_url,
    majority,
    peer_url,
)
from driver.cluster.records import ClusterRecords
from driver.errors import StoreUnavailable
from driver.store.format import keys
from driver.store.kv.protocol import Delete, KeyValue
from tests.support.fakes.kv import FakeKeyValue
from tests.support.faults.steps import How, Killed, Spoil, Steps

TICK_S = 3.0


class FakeEtcd:
    """The members, and which of them run.  It refuses what etcd 3.4 refuses."""

    def __init__(self) -> None:
        self.listed: list[Member] = []
        self.running: set[int] = set()
        self.leads = 0
        self.ids = itertools.count(1)
        self.in_step = True  # whether learners have what the leader has
        self.mute: set[int] = set()  # members that answer, and know no leader

    @property
    def voters(self) -> list[Member]:
        return [member for member in self.listed if not member.is_learner]

    @property
    def has_quorum(self) -> bool:
        voters = self.voters
        return sum(member.id in self.running for member in voters) >= majority(len(voters))

    def elect(self) -> int:
        """The leader's id, 0: there can be none.  It stays as long as it may."""
        able = [member.id for member in self.voters if member.id in self.running]
        self.leads = 0 if not self.has_quorum else (
            self.leads if self.leads in able else able[0])
        return self.leads

    def _guarded(self) -> None:
        if not self.elect():
            raise StoreUnavailable("etcd has no leader (fake)")

    def _changed(self, listed: list[Member]) -> None:
        """Every change of ours comes here: whoever had a quorum has one."""
        assert self.has_quorum, "etcd does not answer without one"
        before, self.listed = self.listed, listed
        assert sum(member.is_learner for member in listed) <= 1, (before, listed)
        assert self.has_quorum, f"a step of ours has cost the quorum: {before} -> {listed}"
        self.elect()

    # What Membership has.
    def list_members(self) -> tuple[Member, ...]:
        self._guarded()
        return tuple(self.listed)

    def health(self, members: Iterable[Member]) -> dict[int, MemberHealth]:
        leader = self.elect()
        return {member.id: MemberHealth("3.4", 0, 0, 0 if member.id in self.mute else leader,
                                        member.is_learner)
                for member in members if member.id in self.running and member.client_urls}

    def add_learner(self, address: str) -> None:
        self._guarded()
        if any(member.is_learner for member in self.listed):
            raise StoreUnavailable("too many learner members in cluster (fake)")
        if any(member.id not in self.running for member in self.voters):
            raise StoreUnavailable("unhealthy cluster (fake)")
        if any(member.address == address for member in self.listed):
            raise StoreUnavailable("peer URLs already exist (fake)")
        self._changed([*self.listed, Member(next(self.ids), "", (peer_url(address),),
                                            is_learner=True)])

    def promote(self, member: int) -> None:
        self._guarded()
        found = next((each for each in self.listed if each.id == member), None)
        if found is None or not found.is_learner:
            raise StoreUnavailable("can only promote a learner member (fake)")
        if not self.in_step or member not in self.running:
            raise StoreUnavailable("can only promote a learner member which is in sync (fake)")
        self._changed([replace(each, is_learner=False) if each.id == member else each
                       for each in self.listed])

    def move_leader(self, member: int) -> None:
        self._guarded()
        if not any(each.id == member and member in self.running for each in self.voters):
            raise StoreUnavailable("bad leader transferee (fake)")
        self.leads = member

    def remove(self, member: int) -> None:
        self._guarded()
        found = next((each for each in self.listed if each.id == member), None)
        if found is None:
            return
        others = [each for each in self.voters if each.id != member]
        running = sum(each.id in self.running for each in others)
        if not found.is_learner and (not others or (
                member in self.running and running < majority(len(self.voters) - 1))):
            raise StoreUnavailable("unhealthy cluster (fake)")
        self._changed([each for each in self.listed if each.id != member])
        self.running.discard(member)
        self.elect()


@dataclass
class SimHost:
    """A machine.  data: id of the member whose data it has, 0: none."""

    id: str
    address: str
    up: bool = True
    data: int = 0
    starts_members: bool = True  # False: etcd cannot start there
    steward: Steward | None = None


@dataclass
class SimCluster:
    """Hosts on record in a fake etcd, and what their keepers do."""

    etcd: FakeEtcd = field(default_factory=FakeEtcd)
    kv: FakeKeyValue = field(default_factory=FakeKeyValue)
    now_s: float = 0.0
    hosts: dict[str, SimHost] = field(default_factory=dict)
    steps: Steps = field(default_factory=Steps)
    log: list[plan.Step] = field(default_factory=list)

    @classmethod
    def begun(cls, count: int = 1) -> SimCluster:
        """One member, and more hosts that have joined."""
        made = cls()
        for _ in range(count):
            made.join()
        first = made.hosts["h1"]
        first.data = next(made.etcd.ids)
        made.etcd.listed = [Member(first.data, "h1", (peer_url(first.address),),
                                   (client_url(first.address),))]
        made.etcd.running = {first.data}
        made.records().set_role("h1", Role.MEMBER)
        return made

    def records(self, kv: KeyValue | None = None) -> ClusterRecords:
        return ClusterRecords(kv or self.kv)

    # ------------------------------------------------------------ what happens to hosts
    def join(self, *, client_only: bool = False) -> SimHost:
        number = len(self.hosts) + 1
        host = SimHost(f"h{number}", f"192.0.2.{number}")
        self.hosts[host.id] = host
        self.records().change_host(host.id, lambda _: ClusterHost(
            host.id, host.id, host.address, float(number), client_only=client_only))
        self.tick(host)
        return host

    def die(self, host: SimHost) -> None:
        host.up, host.steward = False, None
        self.etcd.running.discard(host.data)

    def back(self, host: SimHost) -> None:
        host.up = True
        self._start(host)
        self.tick(host)

    def leave(self, host: SimHost) -> None:
        """As the door does when the host asks for it the first time."""
        if self.etcd.elect():
            self.records().change_host(host.id, lambda known: known and replace(
                known, leaving=True))

    # ---------------------------------------------------------------------- the keepers
    def _start(self, host: SimHost) -> None:
        """Start its member: etcd does that with the data of a member that is listed only."""
        found = next((each for each in self.etcd.listed if each.id == host.data), None)
        if found is None or not host.up or not host.starts_members:
            return
        if found.is_learner and not self.etcd.elect():
            return
        self.etcd.running.add(found.id)
        self.etcd.listed = [replace(each, name=host.id, client_urls=(client_url(host.address),))
                            if each.id == found.id else each for each in self.etcd.listed]

    def tick(self, host: SimHost) -> None:
        """What driver.cluster.keeping.keeper.Keeper.tick does to the host's member."""
        key = keys.cluster_alive(host.id)
        if not host.up or (not self.etcd.elect() and self.etcd.listed):
            return
        self.records().tell_alive(host.id, 0)
        known = self.records().host(host.id)
        mine = next((each for each in self.etcd.listed if each.address == host.address), None)
        if known is None:
            self.kv.commit([], [Delete(key)])
        elif known.role is Role.MEMBER and mine is not None and not host.data:
            if not mine.name:
                host.data = mine.id
                self._start(host)
        elif known.role is Role.CLIENT and mine is None and host.data:
            host.data = 0

    def ticks(self) -> None:
        for host in self.hosts.values():
            if host.up:
                self.tick(host)
            elif self.etcd.elect():
                self.kv.commit([], [Delete(keys.cluster_alive(host.id))])  # its lease has ended

    # ---------------------------------------------------------------------- the steward
    def act(self, spoil: Spoil | None = None) -> plan.Step | None:
        """One round of the steward where etcd leads, with one step of it spoilt."""
        leader = self.etcd.elect()
        host = next((each for each in self.hosts.values() if each.data == leader and leader),
                    None)
        if host is None:
            return None
        if host.steward is None:
            watched = self.steps.watch(self.kv, "kv", lambda _: StoreUnavailable)
            members: Membership = self.steps.watch(
                self.etcd, "etcd", lambda _: StoreUnavailable, free=("elect",))
            host.steward = Steward(self.records(watched), members, lambda: self.now_s)
        self.steps.dead = False
        self.steps.begin(spoil or Spoil(0, How.FAILS))
        try:
            step = host.steward.act()
        except StoreUnavailable:
            step = None
        except Killed:
            step, host.steward = None, None
        self.steps.dead = False
        if step is not None:
            self.log.append(step)
        return step

    def round(self, spoil: Spoil | None = None, seconds: float = TICK_S) -> plan.Step | None:
        self.now_s += seconds
        self.ticks()
        return self.act(spoil)

    def pass_time(self, seconds: float, every_s: float = 15.0) -> list[plan.Step]:
        """Let time pass without faults; return the steps that were done."""
        until_s, before = self.now_s + seconds, len(self.log)
        while self.now_s < until_s:
            self.round(seconds=every_s)
        return self.log[before:]

    # ---------------------------------------------------------------------- what is so
    @property
    def living_voters(self) -> int:
        return sum(member.id in self.etcd.running for member in self.etcd.voters)

    def voter_hosts(self) -> set[str]:
        of = {host.address: host.id for host in self.hosts.values()}
        return {of[member.address] for member in self.etcd.voters}

    def on_record(self) -> list[ClusterHost]:
        return self.records().hosts()
