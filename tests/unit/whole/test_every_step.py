"""Every call of dockerd's, and all that follows from it, is spoilt at step k for every k.

A step is a call on a port: etcd, links, namespaces, maps, Docker's API.  It fails before or
after its effect, or the driver is killed there and a new one recovers.  Then either the same call
is made again, and all is as if nothing had happened; or Docker gives up and undoes the
rest, and nothing is left.  Steps are counted while they are made: a new one cannot be missed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType

import pytest

from driver.services.addresses.service import AddressService
from driver.services.directory.publisher import Publisher
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.endpoints.links import EndpointLinks
from driver.services.networks.lifecycle import NetworkService
from driver.services.sandboxes.finisher import Finisher
from driver.services.sandboxes.withholding import Withholding
from driver.services.upkeep.collect import Collector
from driver.services.upkeep.reconcile import Reconciler
from tests.support.faults.calls import Call, restart
from tests.support.faults.lives import LIVES, perform, spoilt, until
from tests.support.faults.steps import How
from tests.support.world.whole import Whole

KILLS = (How.KILLED, How.DONE_KILLED)


def same(whole: Whole, wanted: dict[str, object], where: str) -> None:
    left = whole.difference(wanted)
    assert not left, f"{where}\n{left}"


POINTS = [pytest.param(calls, index, id=f"{life}: {index} {call.name}")
          for life, (calls, chosen) in LIVES.items() for index, call in enumerate(calls)
          if chosen(index, call)]


def test_every_use_case_is_spoilt_somewhere() -> None:
    """A new public method of a service is a call here, or is named here with the reason."""
    spoilt_names = {name for calls, _ in LIVES.values() for name in called(calls)}
    services = (EndpointService, EndpointLinks, NetworkService, AddressService, Finisher,
                Withholding, Publisher, Collector, Reconciler)
    for service in services:
        public = {name for name, member in vars(service).items()
                  if callable(member) and not name.startswith("_")}
        missing = {f"{service.__name__}.{name}" for name in public} - spoilt_names - READS
        assert not missing


def called(calls: Sequence[Call]) -> set[str]:
    """Names of all methods that run while the calls are made: ``Class.method``."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "/driver/services/" in frame.f_code.co_filename:
            seen.add(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        until(calls)
    finally:
        sys.setprofile(None)
    return seen


# They change nothing, or belong to a process and not to what is kept.
READS = {
    "EndpointService.get_endpoint", "NetworkService.check", "AddressService.default_spaces",
    "Finisher.counts", "Publisher.has",
    "Publisher.directory_size", "Publisher.uncertain", "Publisher.local_size", "Publisher.sizes",
    "Finisher.waiting", "Withholding.counts", "Withholding.detail",
    # The feed's single changes; a snapshot, which is tried, does the same with each.
    "Publisher.put", "Publisher.left", "Publisher.missing", "Publisher.unreadable",
    # Nothing but removals, as `left`: tests/unit/directory/test_publisher.py.
    "Publisher.settle",
    # A person has had this host forgotten, or old data came back:
    # tests/unit/upkeep/test_entering.py.
    "EndpointService.give_up", "EndpointService.take_or_delete", "NetworkService.take",
    "AddressService.give_up",
    "Reconciler.doubtful",
    # A swarm's, each step spoilt: tests/unit/addresses/test_swarm_holdings.py.
    "AddressService.withdraw_swarm_request",
    # A swarm manager's calls, each step spoilt: tests/unit/addresses/test_swarm_pools.py.
    "AddressService.hold_pools", "AddressService.let_pools_go",
    # What Join takes back, each step of which is spoilt.
    "EndpointLinks.delete",
    # What was spoilt before: every call begins with it.
    "AddressService.settle",
    # As a first attempt: tests/netns/underlay/test_events.py.
    "Finisher.refresh", "Finisher.repair",
    # They only answer; labels: tests/unit/sandboxes/test_withholding.py.
    "Withholding.start", "Withholding.stop", "Withholding.describe", "Withholding.take_labels",
}


# A host path that is not offered is not set up by a new driver: it is not the same afterwards.
AGAIN = [pytest.param(*point.values, how, id=f"{point.id}: {how.value}")
         for point in POINTS for how in How
         if not (how in KILLS and "host path is offered" in str(point.id))]


@pytest.mark.parametrize(("calls", "index", "how"), AGAIN)
def test_the_same_call_then_succeeds(calls: list[Call], index: int, how: How) -> None:
    empty, wanted = until([]).view(), until(calls[:index + 1]).view()
    if how in KILLS:
        # A new driver finds and removes more than its undisturbed predecessor knew of.
        undisturbed = until([*calls[:index + 1], restart()])
        undisturbed.collect()
        wanted = undisturbed.view()
    for at, whole, outcome in spoilt(calls, index, how):
        where = f"{how.value}: step {at}, {outcome.step}"
        if not outcome.succeeded:
            assert perform(whole, calls[index]).succeeded, where
        if how in KILLS:
            whole.collect()  # a request that nobody lived to answer counts twice until then
        same(whole, wanted, where)
        for call in calls[index + 1:]:
            assert perform(whole, call).succeeded, f"{where}, then {call.name}"
        same(whole, empty, f"{where}, at the end")


@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize(("calls", "index"), POINTS)
def test_docker_gives_up_and_nothing_is_left(calls: list[Call], index: int, how: How) -> None:
    empty = until([]).view()
    for at, whole, outcome in spoilt(calls, index, how):
        where = f"{how.value}: step {at}, {outcome.step}"
        made = {call.name for call in calls[:index]}
        if outcome.succeeded:
            made.add(calls[index].name)
        for call in calls[index + 1:]:
            if call.undoes in made or call.name == "namespace ends":
                assert perform(whole, call).succeeded, f"{where}, then {call.name}"
        whole.collect()
        same(whole, empty, where)
