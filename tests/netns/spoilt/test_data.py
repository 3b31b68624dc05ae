"""Tests spoilt data in etcd, a record at a time and all of it, while containers talk.

Whatever the damage, nothing live is cut, no new connection fails, nothing is assigned twice, and
the driver reports it.  When the data is right again, all is as before.  Drivers, etcd, links and
maps are real; the test plays dockerd.  One world serves for all cases until one fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from driver.model import Absence, Removal
from driver.store.format import keys, records
from tests.conftest import FAILED
from tests.netns.spoilt.world import LONG_S, Given, SpoiltWorld, State
from tests.support.faults.history import wrong
from tests.support.faults.spoilt_data import (
    FAMILIES,
    Case,
    Changes,
    Kind,
    Reports,
    When,
    by_hand,
    covering,
    names,
    product,
    spoilt,
)
from tests.support.run.wait import wait_until
from tests.support.world.netns import require_root

SAID_S = 45  # drivers look at the marks of absent hosts every 30 s
# Logs count the records that were entered again, and do not name them.
ENTERED = re.compile(r"etcd.* records of this host's.* again")

pytestmark = pytest.mark.timeout(900)


class Worlds:
    """Keeps one world until a case has damaged it."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._stack: ExitStack | None = None
        self._world: SpoiltWorld | None = None

    def get(self) -> SpoiltWorld:
        if self._world is None:
            with ExitStack() as stack:
                self._world = SpoiltWorld(stack, self._folders.mktemp("spoilt"))
                self._stack = stack.pop_all()
        return self._world

    def drop(self) -> None:
        """Take the world down as it is."""
        if self._stack is not None:
            self._stack.close()
        self._world = self._stack = None

    def close(self) -> None:
        """Take the world down as users do."""
        try:
            if self._world is not None:
                self._world.close()
        finally:
            self.drop()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    require_root()
    made = Worlds(tmp_path_factory)
    try:
        yield made
        made.close()
    finally:
        made.drop()


@pytest.fixture
def world(worlds: Worlds, request: pytest.FixtureRequest) -> Iterator[SpoiltWorld]:
    made = worlds.get()
    yield made
    if request.node.stash.get(FAILED, False):
        worlds.drop()


def assert_untouched(world: SpoiltWorld, before: State) -> None:
    assert world.taken(before) == []
    world.goes_on()
    assert world.taken(before) == []
    assert wrong(world.history.events) == []
    for host in world.hosts:
        assert "Traceback" not in host.whole_log()


def assert_as_before(world: SpoiltWorld, before: State) -> None:
    last: list[str] = []

    def is_so() -> bool:
        last[:] = world.difference(before)
        return not last

    try:
        wait_until(is_so, LONG_S, "all is as before", 0.2)
        world.goes_on()
        wait_until(is_so, LONG_S, "it stays so", 0.2)
    except AssertionError as error:
        raise AssertionError(f"{error}; not as before: {last}") from None


def ask(world: SpoiltWorld) -> tuple[list[Given], list[str]]:
    """Start new containers wherever a driver runs, and wait until their peers know them."""
    given, errors = world.ask_for_more([host for host in world.hosts if host.running()])
    world.hear_of(given)
    return given, errors


def assert_said(world: SpoiltWorld, before: State, case: Case, errors: list[str]) -> None:
    """Assert that a log, a status, an error to dockerd or, asked last, the doctor names the record.

    A record under a killed driver's lease may have ended before any driver read it.
    """
    key, _ = FAMILIES[case.family].keys(world)
    lease = before.records[key].lease if key in before.records else 0
    wanted = names(FAMILIES[case.family], world)
    said = Reports()

    def is_so() -> bool:
        said.lines = [*world.reports(before).lines, *errors]
        if case.kind is Kind.DELETED and any(map(ENTERED.search, said.lines)):
            return True
        if case.when is When.STARTING and lease and world.ended(lease):
            return True
        return said.name(wanted)

    try:
        wait_until(is_so, SAID_S, "it is said", 0.2)
    except AssertionError:
        said.lines += [line for host in world.hosts for line in world.doctor(host).splitlines()
                       if line.startswith("FAIL")]
        assert said.name(wanted), f"{wanted} are not in what was said: {said.lines}"


def write(world: SpoiltWorld, when: When, before: State, changes: Changes,
          leases: dict[str, int] | None = None, *, may_refuse: bool = False) -> None:
    """Change the data while drivers run, or before they start."""
    if when is When.RUNNING:
        world.write(changes, leases)
        return
    world.kill()
    world.write(changes, leases)
    for host in reversed(world.hosts):  # a peer first, while the host that could mend it is away
        world.start(host, may_refuse=may_refuse)
        assert_untouched(world, before)


def spoil(world: SpoiltWorld, case: Case) -> None:
    """Spoil a record, check all that the module says, and put the data right again."""
    family = FAMILIES[case.family]
    before = world.at_rest()
    changes = spoilt(family, case.kind, world, {
        key: record.value for key, record in before.records.items()})
    leases = {key: record.lease for key, record in before.records.items()}
    write(world, case.when, before, changes, leases, may_refuse=case.kind in family.refuses)
    given, errors = ask(world)

    if case.kind not in family.silent:
        assert_said(world, before, case, errors)
    assert_untouched(world, before)
    world.restore(before, changes)
    if case.kind in family.refuses:
        world.start(*world.hosts)
    world.give_back(given)
    assert_as_before(world, before)


COVERING = covering()


@pytest.mark.parametrize("case", COVERING, ids=str)
def test_a_record_is_spoilt(case: Case, world: SpoiltWorld) -> None:
    spoil(world, case)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_record_is_spoilt_in_every_way(family: str, world: SpoiltWorld) -> None:
    """These are the rest of the product."""
    for case in product():
        if case.family == family and case not in COVERING:
            try:
                spoil(world, case)
            except BaseException as error:
                error.add_note(f"case {case}")
                raise


@pytest.mark.parametrize("when", When, ids=lambda when: when.value)
@pytest.mark.parametrize("family", [each.name for each in FAMILIES.values() if each.by_hand])
def test_a_field_is_spoilt_that_then_means_less(family: str, when: When, world: SpoiltWorld
                                                ) -> None:
    """Nobody need be told.  What it means then: tests/netns/cluster/test_ipv6.py."""
    before = world.at_rest()
    spoilt_ones = by_hand(FAMILIES[family], world, {
        key: record.value for key, record in before.records.items()})
    for changes in spoilt_ones if when is When.RUNNING else spoilt_ones[:1]:
        write(world, when, before, changes)
        assert_untouched(world, before)
    world.restore(before, spoilt_ones[0])
    assert_as_before(world, before)


@pytest.mark.parametrize("when", When, ids=lambda when: when.value)
def test_all_data_is_lost(when: When, world: SpoiltWorld) -> None:
    """The hosts enter all of it again by themselves, and say so."""
    before = world.at_rest()
    mine: Changes = {key: None for key in before.records
                     if key not in (keys.absent(world.hosts_ids[2]), keys.known(world.hosts_ids[2]),
                                    keys.publisher("another")) and not key.endswith("/fence")}
    write(world, when, before, mine)
    given, _ = ask(world)
    assert_untouched(world, before)
    for host in world.hosts:
        wait_until(lambda host=host: any(  # type: ignore[misc]
            "etcd" in line for line in host.problems(before.logged[world.hosts.index(host)])),
            LONG_S, f"{host.name} says that etcd has lost its data")
    world.give_back(given)
    assert_as_before(world, before)


@pytest.mark.parametrize("when", When, ids=lambda when: when.value)
def test_the_data_is_that_of_before(when: When, world: SpoiltWorld) -> None:
    """The test restores a snapshot from before the containers came."""
    before = world.at_rest()
    gone: Changes = {key: None for key, record in before.records.items()
                     if key.startswith((keys.ENDPOINTS, keys.ADDRESSES, keys.OWNERS))
                     or "/endpoints/" in key}
    write(world, when, before, gone)
    given, _ = ask(world)
    assert_untouched(world, before)
    world.give_back(given)
    assert_as_before(world, before)


def test_a_removal_that_was_begun_is_found_at_the_start(world: SpoiltWorld) -> None:
    """Others took a live host for dead: it enters again what it has, and cuts nothing."""
    before = world.at_rest()
    first = world.hosts[0]
    world.kill()
    world.write({keys.absent(first.id): records.encode(records.absence_fields(
        Absence(first.id, 0, Removal.ADDRESSES)))})
    for host in reversed(world.hosts):
        world.start(host)
    assert_untouched(world, before)
    wait_until(lambda: keys.absent(first.id) not in world.records(), LONG_S, "it is settled")
    assert_as_before(world, before)


def test_the_doctor_names_what_is_spoilt(world: SpoiltWorld) -> None:
    before = world.at_rest()
    family = FAMILIES["endpoint"]
    changes = spoilt(family, Kind.GARBAGE, world, {
        key: record.value for key, record in before.records.items()})
    world.write(changes)
    wait_until(lambda: Reports([world.doctor(world.hosts[1])]).name(names(family, world)),
               LONG_S, "the doctor names it", 0.5)
    world.restore(before, changes)
    assert_as_before(world, before)
