"""Decides the next single step by which etcd's members come to be what they should be.

Nothing is done here; steward.py does it.  A step that was begun and not finished (its host died,
its program was killed) shows in the next situation, and is finished or taken back from there.
No step leaves fewer running voters than a majority of those that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from driver.cluster.model import ClusterHost, Member, Role, Situation, majority

REPLACED_AFTER_S = 3600.0  # a silent member's host, if another host can take its place
LEARNER_S = 90.0  # for a host to start its member, from when it was asked to
IN_STEP_S = 900.0  # for a member to have what the others have, and get its vote


@dataclass(frozen=True)
class AddLearner:
    """Ask a host to run a member; it has no vote yet."""

    host: ClusterHost


@dataclass(frozen=True)
class Promote:
    """Give a learner its vote, once etcd finds it in step."""

    member: Member


@dataclass(frozen=True)
class Remove:
    """Take a member out; why: for the log."""

    member: Member
    why: str


@dataclass(frozen=True)
class ResetRole:
    """Say of a host what is so: it was asked to run a member, and etcd has none of it."""

    host: ClusterHost


Step = AddLearner | Promote | Remove | ResetRole


def wanted_voters(hosts: int) -> int:
    """Return how many voting members a cluster of so many hosts should have."""
    return 1 if hosts < 3 else 3 if hosts < 5 else 5


def next_step(now: Situation) -> Step | None:
    """Return the step to do next; None: all is as it should be, or nothing can be done now."""
    hosts = {host.address: host for host in now.hosts}
    voters = [member for member in now.members if not member.is_learner]
    learner = next((member for member in now.members if member.is_learner), None)
    return (_of_no_host(now, hosts)
            or (_learner_step(now, hosts, learner) if learner is not None
                else _voters_step(now, hosts, voters)))


def cost_of_removal(member: Member, members: Iterable[Member], healthy: Set[int],
                    hosts: Iterable[ClusterHost]) -> str:
    """Return why etcd could not go on without this member; "": it can.

    healthy: as in Situation; hosts: for their names.
    """
    if member.is_learner:
        return ""
    others = [each for each in members if not each.is_learner and each.id != member.id]
    running = [each for each in others if each.id in healthy]
    if not others:
        return "it is etcd's only member: with it all records would be lost"
    if len(running) < majority(len(others)):
        names = {host.address: host.name for host in hosts}
        down = ", ".join(f"{names.get(each.address, '?')} ({each.address})" for each in others
                         if each.id not in healthy)
        return (f"of etcd's other {len(others)} members {len(running)} run, "
                f"{majority(len(others))} are needed: start {down} first")
    return ""


def _cost(now: Situation, member: Member) -> str:
    return cost_of_removal(member, now.members, now.healthy, now.hosts)


def _of_no_host(now: Situation, hosts: dict[str, ClusterHost]) -> Step | None:
    """Remove the members of hosts that are not to have one.

    That no host is on record with its address proves nothing: the record may be what is lost.
    """
    ids = {host.id for host in now.hosts}
    for member in now.members:
        host = hosts.get(member.address)
        why = (_moved(now, member, ids) if host is None else
               "its host is leaving" if host.leaving else
               "its host is to be a client" if host.role is not Role.MEMBER else "")
        if why and not _cost(now, member):
            return Remove(member, why)
    return None


def _moved(now: Situation, member: Member, ids: Set[str]) -> str:
    return ("its host has another address now"
            if member.name in ids and member.id not in now.healthy else "")


def _learner_step(now: Situation, hosts: dict[str, ClusterHost], learner: Member) -> Step | None:
    host = hosts.get(learner.address)
    if host is None or host.id in now.passed_over or now.silent_s.get(host.id, 0) > LEARNER_S:
        return Remove(learner, "it did not come up")
    if learner.id in now.healthy:
        return Promote(learner)
    return None


def _voters_step(now: Situation, hosts: dict[str, ClusterHost], voters: list[Member]
                 ) -> Step | None:
    of_members = {member.address for member in now.members}
    for host in now.hosts:
        if host.role is Role.MEMBER and host.address not in of_members:
            return ResetRole(host)
    staying = [host for host in now.hosts if not host.leaving]
    candidates = _candidates(now, of_members)
    lost = [member for member in voters if member.address not in hosts]  # their hosts' records
    wanted = wanted_voters(len(staying) + len(lost))
    if dead := _for_good(now, hosts, voters):
        # First out, then the other in: with a dead voter more, more of the others are needed.
        if candidates and not _cost(now, dead):
            return Remove(dead, f"its host has been silent for {REPLACED_AFTER_S / 60:.0f} "
                                "minutes, and another one takes its place")
        if len(voters) > wanted and not _cost(now, dead):
            return Remove(dead, "its host is gone, and fewer members are wanted")
    all_run = all(member.id in now.healthy for member in voters)
    # An even number of voters bears no more failures than one less: pass through it quickly.
    stay = [member for member in voters
            if member.address not in hosts or not hosts[member.address].leaving]
    needed = 1 if len(voters) % 2 == 0 or len(stay) < len(voters) else 2
    if len(stay) < wanted and all_run and len(candidates) >= needed:
        return AddLearner(candidates[0])
    if all_run and len(voters) > wanted:
        youngest = max((member for member in voters
                        if member.id != now.leader and member.address in hosts),
                       key=lambda member: hosts[member.address].joined_s, default=None)
        if youngest is not None and not _cost(now, youngest):
            return Remove(youngest, f"{wanted} members are enough for {len(staying)} hosts")
    return None


def _candidates(now: Situation, of_members: Iterable[str]) -> list[ClusterHost]:
    """Return the hosts that could run a member, the oldest first."""
    return sorted((host for host in now.hosts
                   if host.address not in of_members and host.id in now.alive
                   and not host.leaving and not host.client_only
                   and host.id not in now.passed_over),
                  key=lambda host: (host.joined_s, host.id))


def _for_good(now: Situation, hosts: dict[str, ClusterHost], voters: list[Member]
              ) -> Member | None:
    """Return a voter that does not run, whose host has been silent for long."""
    return next((member for member in voters if member.id not in now.healthy
                 and member.address in hosts
                 and now.silent_s.get(hosts[member.address].id, 0) > REPLACED_AFTER_S), None)
