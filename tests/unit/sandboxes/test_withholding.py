"""Who is kept off the host path and why, who is told of it when, and what fails on the way."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Interface
from typing import Any

import pytest

from driver.errors import DatapathError, EngineUnavailable, LinkError
from driver.model import Endpoint, EndpointId, HostPath
from driver.services.ports import Findings, Veth, Why
from driver.services.sandboxes import labels as labels_module
from driver.services.sandboxes import withholding as module
from driver.services.sandboxes.finisher import Finisher
from driver.services.sandboxes.labels import LabelReader
from driver.services.sandboxes.withholding import Withholding
from driver.work.ledger import Ledger
from tests.support.fakes.later import InlineLaters
from tests.support.run.wait import wait_until
from tests.unit.sandboxes.test_finisher import KEY, UNDERLAY, endpoint, veth
from tests.unit.sandboxes.test_finisher import World as Kernel

COOKIE, WAIT_S = 7, 10.0
MISSING = Findings(missing="rule 10")
RULES = Findings(own_rules="table filter has rules")
STACK = Findings(lost_address="10.1.0.2")
NO_IPV6 = Findings(lost_address6="fd00::2")


class World:
    """The kernel's maps, the inside of one sandbox, and what others are told."""

    def __init__(self) -> None:
        self.writes = 0  # of the kernel's map
        self.entered: dict[int, Why] = {}
        self.told: list[tuple[float, Why | None]] = []  # peers: delay, what the kernel knew then
        self.repaired: list[str] = []
        self.watched: dict[str, int] = {}  # -> namespace
        self.namespace = COOKIE
        self.looks = 0
        self.look_s = 0.0  # how long one takes
        self.now_s = 100.0
        self.noted: dict[int, frozenset[Why]] = {}
        self.meanwhile: list[tuple[int, Why]] = []  # noted while an entry is removed
        self.found = Findings()
        self.failures: list[str] = []
        self.choices: dict[EndpointId, HostPath] = {}

    def _may_fail(self, name: str) -> None:
        if name in self.failures:
            self.failures.remove(name)
            raise (LinkError if name in ("look", "add") else DatapathError)(f"{name}: refused")

    # ports.Verdicts
    def withhold(self, cookie: int, why: Why) -> None:
        self.writes += 1
        self._may_fail("withhold")
        self.entered[cookie] = why

    def release(self, cookie: int) -> None:
        self.writes += 1
        self._may_fail("release")
        self.entered.pop(cookie, None)
        for noted, why in self.meanwhile:
            self.noted[noted] = self.noted.get(noted, frozenset()) | {why}
        self.meanwhile.clear()

    def withheld(self) -> Collection[int]:
        return set(self.entered)

    def notes(self) -> Mapping[int, frozenset[Why]]:
        return dict(self.noted)

    def notes_of(self, cookie: int) -> frozenset[Why]:
        return self.noted.get(cookie, frozenset())

    def settle_rules(self, cookie: int) -> None:
        if left := self.notes_of(cookie) - {Why.OWN_RULES}:
            self.noted[cookie] = left
        else:
            self.noted.pop(cookie, None)

    def forget_notes(self, keep: Collection[int]) -> None:
        self.noted = {cookie: what for cookie, what in self.noted.items() if cookie in keep}

    # ports.Inspector, ports.Watch, and what is told
    def look(self, sandbox_key: str, members: Sequence[tuple[Endpoint, Veth]], *,
             underlay: IPv4Address, just_set_up: bool = False) -> Findings:
        assert (sandbox_key, underlay) == (KEY, UNDERLAY)
        assert sandbox_key in self.watched, "what changes after the look must be reported"
        self.looks += 1
        self.now_s += self.look_s
        self._may_fail("look")
        return self.found

    def add(self, sandbox_key: str) -> None:
        self._may_fail("add")
        self.watched.setdefault(sandbox_key, self.namespace)

    def remove(self, sandbox_key: str) -> None:
        self.watched.pop(sandbox_key, None)

    def sweep(self) -> None:
        pass

    def repair(self, key: str) -> None:
        self.repaired.append(key)

    def offer(self, endpoint_id: EndpointId, delay_s: float) -> None:
        self.told.append((delay_s, self.entered.get(COOKIE)))

    def choice_of(self, each: Endpoint) -> HostPath:
        return self.choices.get(each.id, HostPath.AUTO)


@pytest.fixture
def world() -> World:
    return World()


def made(world: World, **others: Any) -> Withholding:
    found = Withholding(verdicts=world, inspector=world, watch=world, underlay=UNDERLAY,
                        choice_of=world.choice_of, clock=lambda: world.now_s, **others)
    found.repair, found.offer = world.repair, world.offer
    return found


@pytest.fixture
def laters() -> InlineLaters:
    """Looks and repairs that are to be done."""
    return InlineLaters()


@pytest.fixture
def withholding(world: World, laters: InlineLaters) -> Withholding:
    return made(world, later=laters)


def enter(withholding: Withholding, *numbers: int) -> None:
    withholding.enter(KEY, COOKIE, [(endpoint(each), veth(each)) for each in numbers or (1,)])


def look(withholding: Withholding, laters: InlineLaters) -> None:
    withholding.changed(KEY)
    laters.pump()


def enter6(withholding: Withholding) -> None:
    """Enter a sandbox with an IPv6 address."""
    withholding.enter(KEY, COOKIE, [
        (replace(endpoint(1), address6=IPv6Interface("fd00::2/64")), veth(1))])


def test_ipv6_options_keep_ipv6_off_and_nothing_else(
        withholding: Withholding, world: World) -> None:
    enter6(withholding)
    assert withholding.takes_ipv6(endpoint(1))
    world.noted[COOKIE] = frozenset({Why.IPV6_OPTIONS})
    withholding.tick()
    assert not withholding.takes_ipv6(endpoint(1))
    assert withholding.may_be_called(endpoint(1))
    assert (world.entered, world.told, world.repaired) == ({}, [(0.0, None)], [KEY])
    withholding.tick()  # it lasts, and is told once
    assert (len(world.told), world.repaired) == (1, [KEY])


def test_ipv6_options_of_before_are_known_when_it_is_published(
        withholding: Withholding, world: World) -> None:
    world.noted[COOKIE] = frozenset({Why.IPV6_OPTIONS})
    enter6(withholding)
    assert not withholding.takes_ipv6(endpoint(1))
    assert (world.entered, world.told, world.repaired) == ({}, [], [])


def test_ipv6_that_is_switched_off_and_on(
        withholding: Withholding, world: World, laters: InlineLaters) -> None:
    enter6(withholding)
    for found, takes in ((NO_IPV6, False), (Findings(), True)):
        world.found = found
        look(withholding, laters)
        assert withholding.takes_ipv6(endpoint(1)) is takes
        assert withholding.may_be_called(endpoint(1))
    assert (world.entered, len(world.told), world.repaired) == ({}, 2, [KEY, KEY])


def test_ipv6_options_are_no_matter_without_ipv6(withholding: Withholding, world: World) -> None:
    enter(withholding)
    world.noted[COOKIE] = frozenset({Why.IPV6_OPTIONS})
    withholding.tick()
    assert (world.entered, world.told, world.repaired) == ({}, [], [])


def test_a_sandbox_without_reasons_is_released_whatever_was_entered(
        withholding: Withholding, world: World) -> None:
    world.entered[COOKIE] = Why.OWN_RULES  # a driver of before, or iptables-legacy by dockerd
    enter(withholding)
    assert (world.entered, world.told) == ({}, [])
    assert withholding.may_be_called(endpoint(1))
    assert withholding.describe() == "all 1 sandboxes"
    assert withholding.counts() == {"host_path": 1, **dict.fromkeys(Why, 0)}


@pytest.mark.parametrize(("found", "why"), [(RULES, Why.OWN_RULES), (STACK, Why.USER_STACK)])
def test_what_is_found_is_entered_and_told(
        withholding: Withholding, world: World, laters: InlineLaters, *, found: Findings,
        why: Why, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.found = found
    enter(withholding)
    assert (world.entered, world.told) == ({COOKIE: why}, [(0.0, why)]), "the kernel first"
    assert not withholding.may_be_called(endpoint(1))
    assert withholding.describe() == f"1 of 1 sandboxes are off it: {why} 1"
    assert {state: count for state, count in withholding.counts().items() if count} == {why: 1}
    enter(withholding)  # the same again: nobody needs to hear
    assert (world.entered, world.told) == ({COOKIE: why}, [(0.0, why)])
    assert caplog.text.count(f"stay off the host path: {why} (") == 1
    assert "10.1.0.2" in caplog.text
    world.found = Findings()
    look(withholding, laters)
    assert (world.entered, world.told[1:]) == ({}, [(0.0, None)]), "the kernel first, again"
    assert withholding.may_be_called(endpoint(1))
    assert "use the host path again" in caplog.text


def test_what_was_removed_is_put_back_and_peers_hear_only_if_it_lasts(
        withholding: Withholding, world: World, laters: InlineLaters) -> None:
    world.found = MISSING
    enter(withholding)
    assert (world.entered, world.told) == (
        {COOKIE: Why.ROUTING_LOST}, [(module.TELL_LOST_S, Why.ROUTING_LOST)])
    while len(world.repaired) < 9:  # as long as it is missing
        assert laters.pump()
    pauses_s = laters.made["repairs"].delays
    assert (pauses_s[0], pauses_s[-1]) == (0.0, module.REPAIR_MAX_S)
    assert pauses_s == sorted(pauses_s)
    assert set(world.repaired) == {KEY}
    world.found = Findings()
    while laters.pump():
        pass
    assert world.entered == {}


@pytest.mark.parametrize("why", [Why.KEYS, Why.BOUND_LISTENER])
def test_what_programs_did_stays(withholding: Withholding, world: World, laters: InlineLaters,
                                 why: Why) -> None:
    enter(withholding)
    assert world.entered == {}
    world.noted[COOKIE] = frozenset({why})
    withholding.tick()
    assert (world.entered, world.told) == ({COOKIE: why}, [(0.0, why)])
    writes = world.writes
    withholding.tick()
    assert world.writes == writes, "nothing is done twice"
    look(withholding, laters)
    assert world.looks == 2
    assert (world.entered, world.told) == ({COOKIE: why}, [(0.0, why)])


@pytest.mark.parametrize("why", [Why.KEYS, Why.BOUND_LISTENER, Why.OWN_RULES])
def test_a_program_that_is_faster_than_the_release_is_not_overlooked(
        withholding: Withholding, world: World, why: Why) -> None:
    """Its own entry goes with the one that is removed; its note says so."""
    world.meanwhile = [(COOKIE, why)]
    enter(withholding)
    assert world.entered == {COOKIE: why}


def test_changed_tables_are_looked_at(world: World) -> None:
    withholding = made(world)
    enter(withholding)
    world.noted[COOKIE] = frozenset({Why.OWN_RULES})
    world.entered[COOKIE] = Why.OWN_RULES  # by the kernel, at once
    withholding.start()
    try:
        withholding.tick()
        wait_until(lambda: world.looks == 2 and not world.entered, WAIT_S, "a look")
    finally:
        withholding.stop()
    assert world.noted == {}


def test_a_sandbox_that_changes_all_the_time_is_looked_at_for_a_share_of_it(
        withholding: Withholding, world: World, laters: InlineLaters) -> None:
    enter(withholding)
    world.look_s = 0.03
    look(withholding, laters)
    withholding.changed(KEY)
    world.now_s += 0.5
    withholding.changed(KEY)
    world.now_s += 30  # what it took then does not matter any more
    withholding.changed(KEY)
    assert laters.made["looks"].delays == pytest.approx([module.LOOK_S, 0.6, 0.1, module.LOOK_S])


def test_strangers_entries_go(withholding: Withholding, world: World) -> None:
    enter(withholding)
    world.entered = {99: Why.KEYS}
    world.noted = {99: frozenset({Why.KEYS})}
    withholding.tick()
    assert (world.entered, world.noted) == ({}, {})


@pytest.mark.parametrize(("label", "own", "reasons"), [
    (None, HostPath.AUTO, "own_rules"), (None, HostPath.ON, ""), (None, HostPath.OFF, "switched"),
    (HostPath.OFF, HostPath.ON, "switched"), (HostPath.ON, HostPath.OFF, ""),
    (HostPath.AUTO, HostPath.OFF, "own_rules")])
def test_the_label_goes_before_the_endpoint_and_that_before_what_is_found(
        withholding: Withholding, world: World, label: HostPath | None, own: HostPath,
        reasons: str) -> None:
    world.found = RULES
    world.choices[endpoint(1).id] = own
    enter(withholding)
    withholding.take_labels({endpoint(1).id: label} if label else {})
    assert str(world.entered.get(COOKIE, "")).startswith(reasons)
    assert bool(world.entered) is bool(reasons)


@pytest.mark.parametrize("noted", [Why.KEYS])
def test_on_does_not_overrule_keys_nor_lost_routes(
        withholding: Withholding, world: World, noted: Why) -> None:
    world.choices[endpoint(1).id] = HostPath.ON
    world.noted[COOKIE] = frozenset({noted})
    world.found = MISSING
    enter(withholding)
    assert world.entered == {COOKIE: noted}
    world.noted.clear()
    withholding.leave(KEY)
    enter(withholding)
    assert world.entered == {COOKIE: Why.ROUTING_LOST}


def test_one_network_that_is_off_beside_one_that_is_not(
        withholding: Withholding, world: World) -> None:
    world.choices[endpoint(1).id] = HostPath.OFF
    enter(withholding, 1, 2)
    assert world.entered == {}
    assert not withholding.uses_host_path(endpoint(1))
    assert not withholding.may_be_called(endpoint(1))
    assert withholding.may_be_called(endpoint(2))
    withholding.take_labels({endpoint(2).id: HostPath.ON})
    assert withholding.uses_host_path(endpoint(1))
    assert world.repaired == [KEY], "its port is published"


@pytest.mark.parametrize("step", ["add", "look", "release"])
def test_what_fails_before_a_sandbox_is_published_keeps_it_from_that(
        withholding: Withholding, world: World, step: str) -> None:
    world.failures = [step]
    with pytest.raises((LinkError, DatapathError)):
        enter(withholding)
    enter(withholding)
    assert withholding.may_be_called(endpoint(1))


@pytest.mark.parametrize("step", ["withhold", "release"])
def test_what_the_kernel_refuses_is_tried_again(
        withholding: Withholding, world: World, laters: InlineLaters, step: str) -> None:
    enter(withholding)
    if step == "release":
        world.found = RULES
        look(withholding, laters)
    world.found = RULES if step == "withhold" else Findings()
    world.failures = [step]
    look(withholding, laters)
    assert bool(world.entered) is (step == "release")  # it was refused
    withholding.tick()
    assert bool(world.entered) is (step == "withhold")


def test_another_namespace_at_the_same_path_is_judged_anew(
        withholding: Withholding, world: World) -> None:
    world.noted[COOKIE] = frozenset({Why.KEYS})
    enter(withholding)
    world.namespace = COOKIE + 1
    withholding.enter(KEY, COOKIE + 1, [(endpoint(1), veth(1))])
    assert world.watched == {KEY: COOKIE + 1}
    assert COOKIE + 1 not in world.entered
    assert withholding.may_be_called(endpoint(1))


@pytest.mark.parametrize("begun", [False, True])
def test_who_has_left_is_let_go(withholding: Withholding, world: World, laters: InlineLaters,
                                monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    enter(withholding)
    if begun:  # a look waits for the sandbox's lock: it is not cancelled any more
        monkeypatch.setattr(laters.made["looks"], "cancel", lambda _key: None)
    withholding.changed(KEY)
    withholding.leave(KEY)
    withholding.leave(KEY)
    assert laters.pump() is begun
    look(withholding, laters)
    assert (world.watched, world.looks) == ({}, 1)
    assert withholding.describe() == "all 0 sandboxes"


class Docker:
    """ports.Labels."""

    def __init__(self) -> None:
        self.found: dict[EndpointId, str] = {}
        self.asked = 0
        self.away = False

    def look(self) -> dict[EndpointId, str]:
        self.asked += 1
        if self.away:
            raise EngineUnavailable("no such socket")
        return dict(self.found)


def test_labels_are_asked_for_until_docker_surely_knows(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(labels_module, "FIRST_S", 0.001)
    monkeypatch.setattr(labels_module, "LAST_S", 0.05)
    docker, taken = Docker(), [dict[EndpointId, HostPath]()]
    reader = LabelReader(docker, lambda found: taken.append(dict(found)))
    reader.start()
    docker.away = True
    reader.ask_soon()
    wait_until(lambda: docker.asked > 2, WAIT_S, "more than one question")
    docker.away = False
    docker.found = {endpoint(1).id: "off", endpoint(2).id: "maybe"}
    reader.ask_soon()
    wait_until(lambda: taken[-1] == {endpoint(1).id: HostPath.OFF}, WAIT_S, "the label")
    reader.stop()
    assert caplog.text.count("labels of containers are not known: no such socket") == 1
    assert caplog.text.count("label slim.host_path='maybe': want off, on, auto") == 1


def test_an_endpoint_is_offered_anew_when_it_may_be_called_again() -> None:
    """The record of a driver before says that it is not offered, and nothing speaks against it."""

    kernel = Kernel()
    ledger = Ledger()
    finisher = Finisher(sandboxes=kernel, datapath=kernel,  # type: ignore[arg-type]
                        teardowns=kernel, underlay=UNDERLAY, overlay_mtu=lambda: 1450,
                        offer_host_path=kernel.offer, ledger=ledger)
    ledger.start()
    try:
        finisher.expect(replace(endpoint(1), offered=False), veth(1))
        finisher.carrier_up(veth(1).host_name, 101)
        wait_until(lambda: kernel.offered == [(endpoint(1).id, True)], WAIT_S, "peers to know")
    finally:
        ledger.stop()
