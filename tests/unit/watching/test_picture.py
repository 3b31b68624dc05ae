"""Tests how the picture is put together from what this host knows and what others tell."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from driver.api.picture import picture as answer
from driver.model import Host, HostId, Vni
from driver.services.ports import (
    Address,
    End,
    EndpointSeen,
    HostSeen,
    NetworkSeen,
    PairRate,
    Path,
    PathRate,
    PoolFill,
    ReasonRate,
    Summary,
)
from driver.services.seeing.sight import Sight
from driver.services.watching import picture
from driver.services.watching.here import Here, Parts
from driver.services.watching.picture import Known, Peer, Pictures, Refusal
from driver.services.watching.sampling import Sampler
from driver.services.watching.sharing import Heard, Others
from tests.unit.seeing.world import APP, BACK, World, endpoint, socket

ME, OTHER = HostId("a" * 32), HostId("b" * 32)
HOSTS = [Host(ME, "node1", IPv4Address("198.18.0.1")),
         Host(OTHER, "node2", IPv4Address("198.18.0.2"))]
A, B = End(1, ip_address("10.32.0.2")), End(1, ip_address("10.32.0.6"))
NETWORK = NetworkSeen("n", 1, "app", (PoolFill("10.32.0.0/16", 2, 65533),), "auto", False)
MINE = Summary(
    ME, "1.0", 2.0, True, (NETWORK,), (EndpointSeen("e1", 1, "web", A.address, None, True),),
    (PairRate(A, B, Path.HOST, 3, 1, 10, 20),), (ReasonRate("connected", "other", 1, 9),),
    (PathRate(Path.HOST, 3, 1, 10, 20),), more_pairs=4)
THEIRS = replace(
    MINE, host=OTHER, networks=(replace(NETWORK, name="theirs"), replace(NETWORK, vni=2)),
    endpoints=(EndpointSeen("e2", 1, "db", B.address, None, False),),
    pairs=(PairRate(B, A, Path.HOST, 3, 1, 20, 10),), more_endpoints=5)


class Asked:
    """services.watching.samples.Samples and sharing.Sharing."""

    def __init__(self) -> None:
        self.summary: Summary | None = MINE
        self.problem = ""
        self.others = Others(0.0, {OTHER: Heard(1, 99.0, THEIRS)})
        self.asked = 0

    @property
    def samples(self) -> Samples:
        return Samples(self)

    @property
    def sharing(self) -> Sharing:
        return Sharing(self)


class Samples:
    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def ask(self) -> tuple[Summary | None, str]:
        return self._asked.summary, self._asked.problem


class Sharing:
    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def ask(self) -> Others:
        self._asked.asked += 1
        return self._asked.others


def peer(vni: Vni, address: Address) -> Peer:
    return Peer("known-db", HOSTS[1].underlay) if End(vni, address) == B else Peer("", None)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def pictures(asked: Asked, *refusals: Refusal) -> Pictures:
    return Pictures(Known(HOSTS[0], lambda: [HostSeen(each, True, False) for each in HOSTS], peer,
                          lambda: refusals), asked.samples, asked.sharing,  # type: ignore[arg-type]
                    clock=lambda: 100.0, wall=lambda: 1.8e9)


def test_the_cluster(asked: Asked) -> None:
    found = pictures(asked).take(True)
    assert (found.ready, found.host, found.at) == (True, ME, 1.8e9)
    assert [(each.name, each.state, each.age_s) for each in found.hosts] == [
        ("node1", "here", 0.0), ("node2", "ok", 1.0)]
    assert [(each.vni, each.name) for each in found.networks] == [(1, "app"), (2, "app")]
    assert [(each.host, each.endpoint.container) for each in found.endpoints] == [
        (ME, "web"), (OTHER, "db")]
    assert [(each.host, each.pair.here) for each in found.pairs] == [(ME, A), (OTHER, B)]
    assert [each.host for each in found.reasons] == [each.host for each in found.paths] == [
        ME, OTHER]
    assert (found.more_pairs, found.more_endpoints) == (8, 5)


def test_this_host_alone_asks_nobody(asked: Asked) -> None:
    found = pictures(asked).take(False)
    assert asked.asked == 0
    # The pair's other end is known from the directory.
    assert [(each.host, each.endpoint.container) for each in found.endpoints] == [
        (ME, "web"), (OTHER, "known-db")]
    assert [(each.name, each.state) for each in found.hosts] == [
        ("node1", "here"), ("node2", "unknown")]
    assert [each.host for each in found.pairs] == [ME]


def test_the_last_words_of_a_silent_host(asked: Asked) -> None:
    asked.others = Others(0.0, {OTHER: Heard(1, 0.0, THEIRS)})
    found = pictures(asked).take(True)
    assert [each.state for each in found.hosts] == ["here", "silent"]
    assert [each.host for each in found.pairs] == [ME, OTHER]
    assert found.ready  # nobody waits for it


def test_before_the_others_have_answered(asked: Asked) -> None:
    asked.others = Others(99.0)
    found = pictures(asked).take(True)
    assert not found.ready
    assert [each.state for each in found.hosts] == ["here", "unknown"]
    asked.others = Others(99.0, {OTHER: Heard(1, 99.0, replace(THEIRS, ready=False))})
    assert not pictures(asked).take(True).ready


def test_before_the_first_sample(asked: Asked) -> None:
    asked.summary, asked.problem = None, "no map"
    found = pictures(asked).take(False)
    assert (found.ready, found.every_s, found.pairs) == (False, 0.0, ())
    assert [(each.state, each.problems) for each in found.hosts] == [("here", ("no map",))]


def test_it_is_bounded(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "PAIRS_MAX", 1)
    monkeypatch.setattr(picture, "ENDPOINTS_MAX", 1)
    monkeypatch.setattr(picture, "REFUSALS_MAX", 2)
    refusal = Refusal(1.0, ME, "web", "syn_no_option", "10.0.0.1:80", 3)
    found = pictures(asked, refusal, refusal, refusal).take(True)
    assert (len(found.pairs), len(found.endpoints), len(found.refusals)) == (1, 1, 2)
    assert (found.more_pairs, found.more_endpoints) == (9, 6)


def test_the_answer_in_json(asked: Asked) -> None:
    refusal = Refusal(1.5, ME, "web", "syn_no_option", "10.0.0.1:80", 3)
    found = answer(pictures(asked, refusal).take(True))
    assert found["Pairs"][0] == {  # type: ignore[index]
        "From": {"Vni": 1, "Address": "10.32.0.2"}, "To": {"Vni": 1, "Address": "10.32.0.6"},
        "Reporter": ME, "Path": "host", "Connections": 3, "OpenedPerSecond": 1,
        "BytesInPerSecond": 10, "BytesOutPerSecond": 20}
    assert found["Refusals"] == [{
        "At": 1.5, "Host": ME, "Container": "web", "Name": "syn_no_option",
        "Peer": "10.0.0.1:80", "Count": 3}]
    assert found["Reasons"][0] == {  # type: ignore[index]
        "Host": ME, "Name": "connected", "PerSecond": 1, "Total": 9, "Kind": "other"}
    assert found["Endpoints"][1] == {  # type: ignore[index]
        "Id": "e2", "Vni": 1, "Container": "db", "Host": OTHER, "Address": "10.32.0.6",
        "Address6": None, "OffersHostPath": False}


# What a host tells of itself.


def test_this_hosts_summary() -> None:
    world, counts = World(), {"connected": 5, "spoofed_source": 2, "overlay_only": 0, "x": 1}
    world.add("both", endpoint("e0", "10.32.0.3/16", key="/netns/e0", port=0),
              endpoint("f0", "10.33.0.3/16", vni=BACK, key="/netns/e0"))
    here = Here(Parts(ME, "1.0", world.sources, lambda: {APP: 3}, lambda: dict(counts),
                      {"connected": "path", "spoofed_source": "drop", "overlay_only": "fallback"}),
                Sampler(world, Sight(world, world.maps), lambda: world.now_s),
                lambda: world.now_s)
    world.open["/netns/e0"] = [socket("10.33.0.3:1", "10.33.0.9:2", cookie=1)]
    first = here.take()
    assert not first.ready
    assert [(each.name, each.kind, each.per_s, each.total) for each in first.reasons] == [
        ("connected", "other", 0, 5), ("spoofed_source", "drop", 0, 2), ("x", "other", 0, 1)]
    assert [(each.vni, each.name, [(pool.used, pool.size) for pool in each.subnets])
            for each in first.networks] == [
        (1, "app", [(3, 65533), (3, (1 << 53) - 1)]), (2, "back", [(0, 65533)])]
    # Those that have connections come first.
    assert [(each.id, each.container, each.offers_host_path) for each in first.endpoints] == [
        ("f0" * 6, "both", True), ("e0" * 6, "both", False), ("c0" * 6, "client", True)]
    world.now_s, counts["spoofed_source"], counts["connected"] = 4.0, 10, 1  # the maps are new
    second = here.take()
    assert second.ready
    assert [(each.name, each.per_s) for each in second.reasons] == [
        ("connected", 0), ("spoofed_source", 2.0), ("x", 0)]
    world.broken["/netns/e0"] = "no"
    assert here.take().problems == ("not all of both: no",)
    here.begin_anew()
    assert not here.take().ready


def test_many_containers_that_cannot_be_read_are_counted() -> None:
    world = World()
    for number in range(1, 30):
        key = f"/netns/x{number}"
        world.add(f"x{number}", endpoint(f"{number:02x}", f"10.32.1.{number}/16", key=key))
        world.broken[key] = "no"
    here = Here(Parts(ME, "1.0", world.sources, dict, dict, {}),
                Sampler(world, Sight(world, world.maps), lambda: 0.0), lambda: 0.0)
    found = here.take().problems
    assert len(found) == 11
    assert found[-1] == "nor of 19 more"
