"""Tests who an event's ends are, which way it says, and which events are wanted."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from driver.errors import InvalidArgument, NotFound
from driver.services.ports import EventKind
from driver.services.seeing import following
from driver.services.seeing.flows import Flows
from driver.services.seeing.following import WATCH_S, Following
from driver.services.seeing.refusals import Refusals
from driver.services.seeing.roster import Roster
from driver.services.seeing.telling import (
    FlowFilter,
    Telling,
    Verdict,
    selection,
    verdict_of,
)
from tests.unit.seeing.test_following import Kernel, event
from tests.unit.seeing.world import BACK, HERE, THERE, World, endpoint


@pytest.mark.parametrize(("kind", "reason", "verdict", "shown"), [
    (EventKind.CONNECT, "connected", Verdict.HOST, ""),
    (EventKind.ACCEPT, "accepted", Verdict.HOST, ""),
    (EventKind.FAILED, "syn_unanswered", Verdict.HOST, "syn_unanswered"),
    (EventKind.CLOSE, "overlay_only", Verdict.OVERLAY, "overlay_only"),
    (EventKind.ACCEPT, "overlay_received", Verdict.OVERLAY, ""),
    (EventKind.CONNECT, "local", Verdict.LOCAL, ""),
    (EventKind.REFUSED, "host_dead", Verdict.REFUSED, "host_dead"),
    (EventKind.REFUSED, "storage_full", Verdict.REFUSED, "storage_full")])
def test_verdicts(kind: EventKind, reason: str, verdict: Verdict, shown: str) -> None:
    told = Telling(World().sources).tell(event(kind=kind, reason=reason))
    assert (told.verdict, told.reason) == (verdict, shown)


def test_names() -> None:
    told = Telling(World().sources).tell(event(host=THERE))
    assert (told.container, told.network, told.peer_name, told.peer_host) == (
        "client", "app", "web", "node2 (198.18.0.2)")
    told = Telling(World().sources).tell(event(
        peer=ip_address("10.32.0.200"), task=IPv4Address("10.32.0.6"), host=HERE))
    assert (told.peer_name, told.peer_host) == ("web", "this host")
    told = Telling(World().sources).tell(event(vni=None, local=None))
    assert (told.container, told.network, told.peer_name) == ("", "", "")


def test_the_time_of_day() -> None:
    telling = Telling(World().sources, lambda: 1000.0, lambda: 5000.0)
    assert telling.tell(event(at_ns=990_500_000_000)).at_s == 4990.5


def test_a_container_that_has_just_come() -> None:
    world = World()
    now_s = 100.0
    telling = Telling(world.sources, lambda: now_s)
    new = event(local=ip_address("10.32.0.9"))
    assert telling.tell(new).container == ""
    world.add("new", endpoint("e0", "10.32.0.9/16"))
    now_s += 0.2
    assert telling.tell(new).container == "new"


def test_filters() -> None:
    world = World()
    world.add("other", endpoint("e0", "10.33.0.9/16", vni=BACK))
    roster = Telling(world.sources).roster()
    mine, mine6 = event(), event(local=ip_address("fd00:32::2"))
    others = event(vni=BACK, local=ip_address("10.33.0.9"), reason="overlay_only")
    refused = event(kind=EventKind.REFUSED, reason="host_dead")
    every = [mine, mine6, others, refused]

    def wanted(**asked: object) -> list[object]:
        wants = selection(FlowFilter(**asked), roster)  # type: ignore[arg-type]
        return [each for each in every if wants(each)]

    assert wanted() == every
    assert wanted(container="client") == [mine, mine6, refused]
    assert wanted(network="back") == [others]
    assert wanted(verdict=Verdict.OVERLAY) == [others]
    assert wanted(reason="host_dead") == [refused]
    assert wanted(container="client", verdict=Verdict.HOST) == [mine, mine6]
    assert wanted(container="client", network="back") == []
    for asked in ({"container": "nobody"}, {"network": "nowhere"}):
        with pytest.raises(NotFound):
            wanted(**asked)
    assert verdict_of(mine6) is Verdict.HOST


def test_refusals_by_filter() -> None:
    world = World()
    world.add("other", endpoint("e0", "10.33.0.9/16", vni=BACK))
    telling = Telling(world.sources)
    meanings = {"host_dead": "", "no_listener": ""}
    refusals = Refusals(telling, meanings)
    flows = Flows(Following(Kernel(), refusals.note), refusals, telling, meanings, world.cookie)
    refusals.note([event(kind=EventKind.REFUSED, reason="host_dead", times=1),
                   event(kind=EventKind.REFUSED, reason="no_listener", times=1, vni=BACK,
                         local=ip_address("10.33.0.9"))])

    def reasons(**asked: str) -> list[str]:
        return [each.reason for each in flows.refusals(FlowFilter(**asked))]  # type: ignore[arg-type]

    assert reasons() == ["no_listener", "host_dead"]
    assert reasons(container="client") == ["host_dead"]
    assert reasons(network="back") == ["no_listener"]
    assert reasons(reason="no_listener") == ["no_listener"]
    with pytest.raises(InvalidArgument, match="there is no reason 'x'"):
        reasons(reason="x")
    with pytest.raises(InvalidArgument, match="there is no reason 'x'"):
        flows.follow(FlowFilter(reason="x"), "")


def test_a_container_that_goes_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WAIT_S", 0.01)
    world, kernel = World(), Kernel()
    telling = Telling(world.sources)
    monkeypatch.setattr(telling, "roster", lambda: Roster(world.sources))
    refusals = Refusals(telling, {})
    flows = Flows(Following(kernel, refusals.note), refusals, telling, {}, world.cookie)
    wanted = FlowFilter("client")
    after = flows.follow(wanted, "").next
    assert kernel.watched == (WATCH_S, world.client_cookie)
    gone = world.endpoints.pop()
    after = flows.follow(wanted, after).next
    world.endpoints.append(gone)
    flows.follow(wanted, after)
    world.endpoints.pop()
    with pytest.raises(NotFound):
        flows.follow(wanted, "")
