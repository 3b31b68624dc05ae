"""Tests how etcd's members are chosen: any history, each step of the steward failing or the last.

world.py refuses, as an assertion, a change of ours after which a majority of the voters does not
run where one ran before, and a second learner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver.cluster.changes.parting import Removal
from driver.cluster.etcd import plan, steward
from driver.cluster.etcd.plan import cost_of_removal, wanted_voters
from driver.cluster.model import Member, Role, client_url, majority, peer_url
from driver.errors import Conflict, StoreUnavailable
from driver.store.format import keys
from driver.store.kv.protocol import Delete
from tests.support.faults.steps import How, Killed, Spoil
from tests.unit.cluster.world import SimCluster, SimHost


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order of times, in fewer rounds."""
    monkeypatch.setattr(plan, "REPLACED_AFTER_S", 240.0)
    monkeypatch.setattr(plan, "LEARNER_S", 60.0)
    monkeypatch.setattr(plan, "IN_STEP_S", 180.0)
    monkeypatch.setattr(steward, "PASSED_OVER_S", 120.0)
    monkeypatch.setattr(steward.log, "disabled", True)


def settle(cluster: SimCluster) -> None:
    """Let all come to rest; then nothing more may be done."""
    cluster.pass_time(900)
    steps = cluster.pass_time(450)
    assert steps == [], "an endless back-and-forth"


def assert_at_rest(cluster: SimCluster) -> None:
    """The members are as many as there should be, and all of them run."""
    etcd = cluster.etcd
    assert etcd.has_quorum
    assert [member for member in etcd.listed if member.is_learner] == []
    known = {host.id: host for host in cluster.on_record()}
    staying = [host for host in known.values() if not host.leaving]
    able = [host for host in staying if cluster.hosts[host.id].up and not host.client_only]
    wanted = wanted_voters(len(staying))
    if len(able) >= wanted:
        assert len(etcd.voters) == wanted, (etcd.voters, staying)
        assert cluster.living_voters == wanted
    assert cluster.voter_hosts() <= {host.id for host in staying}
    for host in known.values():
        assert (host.role is Role.MEMBER) == (host.id in cluster.voter_hosts()), host


# ------------------------------------------------------------------------------ histories
@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, Spoil]]:
    events = st.sampled_from(["join", "die", "die", "back", "leave", "remove", "wait", "long",
                              "round", "round", "round", "round", "settle"])
    spoils = st.builds(Spoil, st.integers(0, 9), st.sampled_from(How))
    return draw(st.lists(st.tuples(events, st.integers(0, 8), spoils), min_size=4, max_size=30))


def happen(cluster: SimCluster, event: str, which: int, spoil: Spoil) -> None:
    hosts = list(cluster.hosts.values())
    host = hosts[which % len(hosts)]
    if event == "join" and len(hosts) < 8 and cluster.etcd.elect():
        cluster.join()
    elif event == "die":
        cluster.die(host)
    elif event == "back":
        cluster.back(host)
    elif event == "leave" and cluster.records().host(host.id) and len(
            [each for each in cluster.on_record() if not each.leaving]) > 1:
        cluster.leave(host)
    elif event == "remove" and not host.up and cluster.etcd.elect():
        remove(cluster, host, spoil)
    elif event == "wait":
        cluster.pass_time(60)
    elif event == "long":
        cluster.pass_time(300)
    elif event == "settle":
        cluster.pass_time(600)
    cluster.round(spoil)


def remove(cluster: SimCluster, host: SimHost, spoil: Spoil) -> str:
    """Type `slim cluster remove` on another host; return the name of the step that was spoilt."""
    steps = cluster.steps
    steps.dead = False
    steps.begin(spoil)
    kv = steps.watch(cluster.kv, "kv", lambda _: StoreUnavailable)
    etcd = steps.watch(Users(cluster), "etcd", lambda _: StoreUnavailable)
    me = type("Me", (), {"host": "somebody"})()
    try:
        Removal(cluster.records(kv), etcd, me, lambda _: None).remove(  # type: ignore[arg-type]
            host.id, even_alive=True)
    except (Conflict, StoreUnavailable, Killed):
        pass
    except Exception as error:
        assert "no host is called" in str(error), error  # noqa: PT017
    steps.dead = False
    return steps.names[spoil.at - 1] if steps.reached else ""


class Users:
    """What Removal needs of members, beside Membership."""

    def __init__(self, cluster: SimCluster) -> None:
        self.list_members = cluster.etcd.list_members
        self.health = cluster.etcd.health
        self.remove = cluster.etcd.remove

    def remove_user(self, host: str) -> None:
        pass


@settings(max_examples=60)
@given(histories(), st.integers(1, 6))
def test_any_history(history: list[tuple[str, int, Spoil]], count: int) -> None:
    cluster = SimCluster.begun(count)
    for event, which, spoil in history:
        happen(cluster, event, which, spoil)
    for host in cluster.hosts.values():
        cluster.back(host)
    if not cluster.etcd.elect():
        return  # hosts were lost with their data: `slim cluster restore`
    settle(cluster)
    assert_at_rest(cluster)


@settings(max_examples=40)
@given(histories(), st.integers(1, 6))
def test_hosts_that_never_come_back(history: list[tuple[str, int, Spoil]], count: int) -> None:
    """Whoever is down stays so: others take its place as long as there is a majority."""
    cluster = SimCluster.begun(count)
    for event, which, spoil in history:
        happen(cluster, event, which, spoil)
    if not cluster.etcd.elect():
        return
    settle(cluster)
    assert_at_rest_as_far_as_possible(cluster)


def assert_at_rest_as_far_as_possible(cluster: SimCluster) -> None:
    etcd = cluster.etcd
    assert etcd.has_quorum
    assert not any(member.is_learner for member in etcd.listed)
    able = [host for host in cluster.on_record()
            if not host.leaving and cluster.hosts[host.id].up]
    wanted = wanted_voters(len([host for host in cluster.on_record() if not host.leaving]))
    if len(able) >= wanted:
        assert cluster.living_voters == len(etcd.voters) == wanted


# ------------------------------------------------------------- each step, spoilt in each way
def grow_to(count: int) -> Callable[[], SimCluster]:
    def make() -> SimCluster:
        cluster = SimCluster.begun(1)
        for _ in range(count - 1):
            cluster.join()
        return cluster

    return make


def rested(count: int) -> SimCluster:
    cluster = grow_to(count)()
    cluster.pass_time(450)
    assert len(cluster.etcd.voters) == wanted_voters(count)
    return cluster


def dead_member() -> SimCluster:
    cluster = rested(4)
    cluster.die(cluster.hosts[min(cluster.voter_hosts())])
    cluster.pass_time(plan.REPLACED_AFTER_S)
    return cluster


def leaving(count: int, which: str) -> Callable[[], SimCluster]:
    def make() -> SimCluster:
        cluster = rested(count)
        cluster.leave(cluster.hosts[which])
        return cluster

    return make


def fewer() -> SimCluster:
    """Five members, and hosts for three only."""
    cluster = rested(5)
    for each in ("h4", "h5"):
        cluster.records().change_host(each, lambda host: host and replace(host, leaving=True))
    return cluster


def learner_dies() -> SimCluster:
    cluster = grow_to(4)()
    while not any(member.is_learner for member in cluster.etcd.listed):
        cluster.round()
    learner = cluster.etcd.listed[-1]
    cluster.die(next(host for host in cluster.hosts.values() if host.address == learner.address))
    return cluster


SCENES: dict[str, Callable[[], SimCluster]] = {
    "one to three": grow_to(3), "three to five": grow_to(5), "a dead member": dead_member,
    "a member leaves": leaving(3, "h2"), "the leader leaves": leaving(3, "h1"),
    "one of two": leaving(2, "h1"), "five to three": fewer, "a learner dies": learner_dies}


@pytest.mark.parametrize("how", How, ids=lambda how: how.name.lower())
@pytest.mark.parametrize("scene", SCENES)
def test_each_step_of_the_steward(scene: str, how: How) -> None:
    """It fails or ends before or after each of its effects, in each round that has one."""
    reference, effects = SCENES[scene](), []
    for number in range(ROUNDS):
        reference.round()
        effects += [(number, at) for at, name in enumerate(reference.steps.names, 1)
                    if name in EFFECTS]
    assert {reference.steps.names[0] for _ in effects} == {"etcd.list_members"}
    for number, at in effects:
        cluster = SCENES[scene]()
        for _ in range(number):
            cluster.round()
        cluster.round(Spoil(at, how))
        assert cluster.steps.reached
        settle(cluster)
        assert_at_rest_as_far_as_possible(cluster)


ROUNDS = 60
EFFECTS = {"kv.commit", "etcd.add_learner", "etcd.promote", "etcd.remove", "etcd.move_leader"}


@pytest.mark.parametrize("how", How, ids=lambda how: how.name.lower())
def test_each_step_of_a_removal_by_hand(how: How) -> None:
    at, name = 1, "begun"
    while name:
        cluster = rested(4)
        gone = cluster.hosts["h2"]
        cluster.die(gone)
        cluster.ticks()
        name = remove(cluster, gone, Spoil(at, how))
        cluster.round()
        remove(cluster, gone, Spoil(0, how))  # typed again
        assert cluster.records().host("h2") is None
        settle(cluster)
        assert cluster.voter_hosts() == {"h1", "h3", "h4"}
        cluster.back(gone)  # it was not gone for good
        settle(cluster)
        assert cluster.voter_hosts() == {"h1", "h3", "h4"}
        at += 1
    assert at > 6


# --------------------------------------------------------------------------- single decisions
def test_how_many_members() -> None:
    for count, voters in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5), (200, 5)):
        assert wanted_voters(count) == voters
        cluster = rested(min(count, 9))
        settle(cluster)
        assert_at_rest(cluster)


def test_members_come_as_learners_and_get_a_vote_once_they_are_in_step() -> None:
    cluster = SimCluster.begun(3)
    cluster.etcd.in_step = False
    cluster.pass_time(30)
    assert [member.is_learner for member in cluster.etcd.listed] == [False, True]
    cluster.etcd.in_step = True
    settle(cluster)
    assert len(cluster.etcd.voters) == 3


def test_a_dead_member_is_replaced_after_the_stated_time_and_not_before() -> None:
    cluster = rested(4)
    dead = cluster.hosts["h2"]
    cluster.die(dead)
    assert cluster.pass_time(plan.REPLACED_AFTER_S - 30) == []
    cluster.pass_time(120)
    assert cluster.voter_hosts() == {"h1", "h3", "h4"}
    cluster.back(dead)
    settle(cluster)
    assert dead.data == 0
    assert cluster.voter_hosts() == {"h1", "h3", "h4"}


def test_a_member_whose_host_is_back_in_time_stays() -> None:
    cluster = rested(4)
    for _ in range(4):
        cluster.die(cluster.hosts["h2"])
        cluster.pass_time(plan.REPLACED_AFTER_S - 30)
        cluster.back(cluster.hosts["h2"])
        assert cluster.pass_time(60) == []


def test_who_led_before_counts_anew() -> None:
    """In between the host was alive: the time of before is not added to that of now."""
    cluster = rested(4)
    leader = next(host for host in cluster.hosts.values() if host.data == cluster.etcd.elect())
    other = next(host for host in cluster.hosts.values()
                 if host.id in cluster.voter_hosts() and host is not leader)
    cluster.die(other)
    cluster.pass_time(120)  # it is noticed
    cluster.back(other)
    cluster.etcd.leads = other.data
    assert cluster.etcd.elect() == other.data
    cluster.pass_time(plan.REPLACED_AFTER_S)
    cluster.etcd.leads = leader.data
    cluster.die(other)
    assert cluster.pass_time(plan.REPLACED_AFTER_S - 60) == []


def test_a_dead_member_stays_where_nobody_can_take_its_place() -> None:
    cluster = rested(3)
    cluster.die(cluster.hosts["h2"])
    assert cluster.pass_time(5 * plan.REPLACED_AFTER_S) == []


def test_without_quorum_nothing_is_done() -> None:
    cluster = rested(5)
    for each in sorted(cluster.voter_hosts())[:3]:
        cluster.die(cluster.hosts[each])
    before = list(cluster.etcd.listed)
    assert cluster.pass_time(2 * plan.REPLACED_AFTER_S) == []
    assert cluster.etcd.listed == before


def test_a_host_whose_etcd_does_not_start_is_passed_over() -> None:
    cluster = grow_to(4)()
    cluster.hosts["h2"].starts_members = False
    cluster.pass_time(300)
    assert cluster.voter_hosts() == {"h1", "h3", "h4"}


def test_a_learner_that_answers_and_knows_no_leader_is_passed_over() -> None:
    """Its peer port is closed, for example: it must not stand in others' way for ever."""
    cluster = grow_to(4)()
    cluster.etcd.in_step = False
    while not any(member.is_learner and member.client_urls for member in cluster.etcd.listed):
        cluster.round()
    cluster.etcd.in_step = True
    cluster.etcd.mute.add(cluster.etcd.listed[-1].id)
    cluster.pass_time(300)
    assert len(cluster.etcd.voters) == 3
    assert not cluster.etcd.mute & {member.id for member in cluster.etcd.voters}


def test_a_learner_that_never_comes_in_step_stands_in_nobodys_way() -> None:
    cluster = rested(4)
    dead = cluster.hosts["h2"]
    cluster.die(dead)
    cluster.etcd.in_step = False
    cluster.pass_time(plan.REPLACED_AFTER_S + 60)
    late = next(member for member in cluster.etcd.listed if member.is_learner)
    cluster.back(dead)
    cluster.pass_time(plan.IN_STEP_S + 60)
    assert late not in cluster.etcd.listed


def test_who_is_never_to_be_a_member_is_none() -> None:
    cluster = SimCluster.begun(2)
    cluster.join(client_only=True)
    settle(cluster)
    assert cluster.voter_hosts() == {"h1"}
    cluster.join()
    settle(cluster)
    assert cluster.voter_hosts() == {"h1", "h2", "h4"}


def test_the_last_but_one_leaves_though_it_leads() -> None:
    """Another one leads before it goes: at no moment are records without a leader."""
    cluster = leaving(2, "h1")()
    settle(cluster)
    assert cluster.voter_hosts() == {"h2"}
    out = [step.member.id for step in cluster.log if isinstance(step, plan.Remove)]
    assert out == [1, 1]  # the first time, leadership was handed over


@pytest.mark.parametrize("lost", [("h2",), ("h1", "h2", "h3")])
def test_a_running_member_stays_though_its_hosts_record_is_lost(lost: tuple[str, ...]) -> None:
    """What is missing proves nothing: somebody may have deleted the record by mistake."""
    cluster = rested(3)
    for each in lost:
        cluster.kv.commit([], [Delete(keys.cluster_host(each))])
    assert cluster.pass_time(900) == []
    assert cluster.living_voters == 3


def test_a_host_that_has_moved_leaves_no_member_behind() -> None:
    """It has joined again with another address; its member of before cannot run any more."""
    cluster = rested(3)
    host = cluster.hosts["h2"]
    cluster.die(host)
    host.address, host.data = "192.0.2.99", 0
    cluster.records().change_host("h2", lambda known: known and replace(
        known, address=host.address))
    cluster.back(host)
    settle(cluster)
    assert {member.address for member in cluster.etcd.voters} == {
        "192.0.2.1", "192.0.2.3", "192.0.2.99"}


def voters(count: int) -> tuple[Member, ...]:
    return tuple(Member(number, f"h{number}", (peer_url(f"192.0.2.{number}"),),
                        (client_url(f"192.0.2.{number}"),)) for number in range(1, count + 1))


@given(st.integers(1, 7), st.sets(st.integers(1, 7)), st.integers(1, 7))
def test_the_cost_of_a_removal(count: int, running: set[int], which: int) -> None:
    members = voters(count)
    running &= {member.id for member in members}
    member = members[(which - 1) % count]
    cost = cost_of_removal(member, members, running, ())
    left = running - {member.id}
    assert bool(cost) == (count == 1 or len(left) < majority(count - 1))
    assert not cost_of_removal(replace(member, is_learner=True), members, set(), ())
