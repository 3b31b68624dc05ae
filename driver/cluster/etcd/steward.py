"""Carries out what plan.py decides, on the one host whose etcd leads: one step at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from driver.cluster.etcd import plan
from driver.cluster.etcd.members import Membership
from driver.cluster.model import Member, Role, Situation, running
from driver.cluster.records import ClusterRecords
from driver.errors import StoreUnavailable
from driver.work.logs import STANDING

PASSED_OVER_S = 600.0  # a host that did not come up as a member is not asked again for so long
# Who has not looked for so long may have missed that a host was alive: as long as its sign lives.
MEMORY_S = 20.0

log = logging.getLogger(__name__)


@dataclass
class Steward:
    """Looks at the members and hosts, and does the next step.  One thread calls it.

    What it remembers is when something was first seen so.  A host that begins to lead waits anew,
    also one that led before: that delays a step, and never does one too early.
    """

    records: ClusterRecords
    members: Membership
    clock: Callable[[], float] = time.monotonic
    _silent_since: dict[str, float] = field(default_factory=dict)  # hosts
    # Learners' addresses, and for how long one may be so.
    _learner_since: dict[tuple[str, float], float] = field(default_factory=dict)
    _passed_over: dict[str, float] = field(default_factory=dict)  # hosts -> until when
    _looked_s: float = float("-inf")

    def act(self) -> plan.Step | None:
        """Do one step; return it, None if there is none.  Error: StoreUnavailable."""
        now = self.situation()
        step = plan.next_step(now)
        if step is None:
            return None
        try:
            if isinstance(step, plan.Remove) and step.member.id == now.leader:
                self._hand_over(now)  # the next leader takes the step
            else:
                self._do(step)
        except StoreUnavailable as error:
            if isinstance(step, plan.Promote):  # it is not in step yet
                log.info("later: %s", error)
                return None
            raise
        return step

    def situation(self) -> Situation:
        """Return what is so now."""
        members = self.members.list_members()
        health = self.members.health(members)
        hosts = tuple(self.records.hosts())
        alive, now_s = self.records.alive(), self.clock()
        if now_s - self._looked_s > MEMORY_S:
            self._silent_since.clear()
            self._learner_since.clear()
        self._looked_s = now_s
        for host in hosts:
            if host.id in alive:
                self._silent_since.pop(host.id, None)
            else:
                self._silent_since.setdefault(host.id, now_s)
        healthy = running(health)
        self._watch_learners(members, healthy, {host.address: host.id for host in hosts}, now_s)
        return Situation(
            members, hosts, healthy=healthy,
            leader=next((said.leader for said in health.values() if said.leader), 0),
            alive=alive,
            silent_s={host: now_s - since_s for host, since_s in self._silent_since.items()},
            passed_over=frozenset(host for host, until_s in self._passed_over.items()
                                  if now_s < until_s))

    def _watch_learners(self, members: tuple[Member, ...], healthy: frozenset[int],
                        hosts: dict[str, str], now_s: float) -> None:
        """Pass over the host of a learner that does not come up, or never comes in step."""
        waiting = [(member.address, limit_s) for member in members if member.is_learner
                   for limit_s in (plan.LEARNER_S, plan.IN_STEP_S)
                   if member.id not in healthy or limit_s == plan.IN_STEP_S]
        self._learner_since = {key: self._learner_since.get(key, now_s) for key in waiting}
        for (address, limit_s), since_s in self._learner_since.items():
            if now_s - since_s > limit_s and address in hosts:
                self._passed_over[hosts[address]] = now_s + PASSED_OVER_S

    def _hand_over(self, now: Situation) -> None:
        """Have another member lead before the leader goes: else none leads for seconds."""
        heir = next(member for member in now.members if not member.is_learner
                    and member.id != now.leader and member.id in now.healthy)
        log.warning("etcd's member at %s leads from now on", heir.address)
        self.members.move_leader(heir.id)

    def _do(self, step: plan.Step) -> None:
        """Do it so that a half of it shows what is to be done next."""
        if isinstance(step, plan.AddLearner):
            log.warning("%s (%s) is to run a member of etcd", step.host.name, step.host.address)
            self.records.set_role(step.host.id, Role.MEMBER)
            self.members.add_learner(step.host.address)
        elif isinstance(step, plan.Promote):
            self.members.promote(step.member.id)
            log.warning("etcd's member at %s has a vote now", step.member.address)
        elif isinstance(step, plan.ResetRole):
            self.records.set_role(step.host.id, Role.CLIENT)
        else:
            log.warning("etcd's member at %s is taken out: %s", step.member.address, step.why,
                        extra=STANDING)
            for host in self.records.hosts():
                if host.address == step.member.address:
                    self.records.set_role(host.id, Role.CLIENT)
            self.members.remove(step.member.id)
