"""Tests the verdict on a connection for each thing that may be in its way, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from driver.errors import InvalidArgument, NotFound
from driver.services.ports import Location, Path
from driver.services.seeing.questions import parse
from driver.services.seeing.why import Answer, Way
from tests.unit.seeing.world import BACK, THERE, World, endpoint, socket


@pytest.fixture
def world() -> World:
    return World()


def way(answer: Answer, version: int = 4) -> Way:
    found, = (each for each in answer.ways if each.target.version == version)
    return found


def bad(found: Way) -> list[tuple[str, str]]:
    return [(each.name, each.reason) for each in found.checks if each.good is False]


def test_nothing_is_in_its_way(world: World) -> None:
    answer = world.why.ask("client", "web:80")
    assert answer.verdict == "host path"
    assert [str(each.target) for each in answer.ways] == ["10.32.0.6", "fd00:32::6"]
    for each in answer.ways:
        assert (each.judgement.path, bad(each), each.port) == (Path.HOST, [], 80)
        assert (each.peer_name, each.peer_host) == ("web", f"node2 ({THERE})")
    assert str(way(answer).source) == "10.32.0.2"
    assert [(each.good, each.name) for each in way(answer).checks if each.good is not True] == [
        (None, "listener")]


def _withheld(world: World) -> None:
    world.maps.kept_off[world.client_cookie] = "own_rules"
    world.detail = "table inet filter"


def _not_offered(world: World) -> None:
    for address in (world.web.address, world.web.address6):
        assert address is not None
        world.maps.directory[world.web.vni, address.ip] = Location(THERE, 0)


def _unfinished(world: World) -> None:
    del world.maps.sandboxes[world.client_cookie]


def _no_port(world: World) -> None:
    cookie = world.client_cookie
    world.maps.sandboxes[cookie] = tuple(
        replace(each, port=0) for each in world.maps.sandboxes[cookie])


def _off_for_one(world: World) -> None:
    _no_port(world)
    world.switched_off.add(world.client.id)


def _blocked(world: World) -> None:
    world.maps.blocked.add(THERE)
    world.trouble = "it answers pings, but no SYN of the host path"


def _dead(world: World) -> None:
    world.maps.dead.add(THERE)


def _greedy(world: World) -> None:
    world.maps.greedy.add(world.client_cookie)


@pytest.mark.parametrize(("spoil", "found", "verdict"), [
    (_withheld, ("client", "own_rules"),
     "overlay path, because client has rules (table inet filter)"),
    (_not_offered, ("server", "overlay_only"), f"overlay path, because node2 ({THERE}) offers no "
     "host path for 10.32.0.6 at the moment: there, `slim why web client` says why"),
    (_unfinished, ("client", "overlay_only"), "overlay path, because the sandbox of client is not "
     "set up for the host path: `slim status`, line `outstanding`, says why"),
    (_no_port, ("own port", "overlay_only"),
     "overlay path, because client has no endpoint port in this network"),
    (_off_for_one, ("own port", "overlay_only"), "overlay path, because the host path is switched "
     "off for the endpoint of client in this network"),
    (_blocked, ("wire", "peer_blocked"), "overlay path, because SYNs of the host path do not get "
     f"through to node2 ({THERE}): it answers pings, but no SYN of the host path"),
    (_dead, ("host", "host_dead"), f"not at all, because node2 ({THERE}) is gone"),
    (_greedy, ("share", "share_used"), "overlay path, because client has its share of this "
     "host's connections open")])
def test_each_reason(world: World, spoil: Callable[[World], None], found: tuple[str, str],
                     verdict: str) -> None:
    spoil(world)
    answer = world.why.ask("client", "10.32.0.6")
    assert bad(way(answer)) == [found]
    assert answer.verdict == verdict
    assert way(answer).judgement.path is (
        Path.NONE if verdict.startswith("not at all") else Path.OVERLAY)
    assert next(each.remedy for each in way(answer).checks if each.good is False)


def test_several_reasons_in_the_kernels_order(world: World) -> None:
    for spoil in (_blocked, _not_offered, _withheld, _greedy):
        spoil(world)
    answer = world.why.ask("client", "10.32.0.6")
    assert [reason for _, reason in bad(way(answer))] == [
        "own_rules", "overlay_only", "peer_blocked", "share_used"]
    assert answer.verdict.startswith("overlay path, because client has rules")


def _options(world: World) -> None:
    world.maps.with_options.add(world.client_cookie)


def _without_ipv6(world: World) -> None:
    cookie = world.client_cookie
    world.maps.sandboxes[cookie] = tuple(
        replace(each, address6=None) for each in world.maps.sandboxes[cookie])


def _only_ipv6(world: World) -> None:
    world.only_ipv6.add(world.client.sandbox_key)


@pytest.mark.parametrize(("spoil", "reason"), [
    (_options, "ipv6_options"), (_without_ipv6, "overlay_only"), (_only_ipv6, "ipv6_only")])
def test_what_keeps_ipv6_alone_off(world: World, spoil: Callable[[World], None], reason: str
                                   ) -> None:
    spoil(world)
    answer = world.why.ask("client", "web")
    assert (way(answer).judgement.path, bad(way(answer))) == (Path.HOST, [])
    assert (way(answer, 6).judgement.path, bad(way(answer, 6))) == (
        Path.OVERLAY, [("IPv6", reason)])
    assert answer.verdict.startswith("to 10.32.0.6: host path; to fd00:32::6: overlay path, ")


def test_a_peer_that_takes_no_ipv6(world: World) -> None:
    assert world.web.address6 is not None
    world.maps.directory[world.web.vni, world.web.address6.ip] = Location(THERE, 0)
    found = way(world.why.ask("client", "web"), 6)
    assert bad(found) == [("server", "overlay_only")]
    assert "offers no host path for fd00:32::6:" in found.verdict


def test_on_one_host(world: World) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    _withheld(world)  # changes nothing there
    for target in ("next", "10.32.0.3", "e0e0e0e0e0e0"):
        answer = world.why.ask("client", target)
        assert answer.verdict == "directly, on this host"
        assert (way(answer).peer_name, way(answer).peer_host) == ("next", "this host")


@pytest.mark.parametrize(("listener", "says"), [
    ("0.0.0.0:80", ""), ("[::]:80", ""), ("10.32.0.3:80", ""), ("0.0.0.0:81", "nothing"),
    ("127.0.0.1:80", "nothing"), (None, "nothing")])
def test_whether_anything_listens_here(world: World, listener: str | None, says: str) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    if listener:
        world.open["/netns/e0"] = [socket(listener, "0.0.0.0:0", state="LISTEN")]
    verdict = world.why.ask("client", "next:80").verdict
    assert verdict == "directly, on this host" + (
        "; but nothing listens at port 80 there" if says else "")


def test_a_container_that_calls_itself(world: World) -> None:
    answer = world.why.ask("client", "10.32.0.2")
    assert answer.verdict == "directly, on this host"
    assert "never leave it" in way(answer).checks[-1].says


def test_an_address_that_nobody_has(world: World) -> None:
    answer = world.why.ask("client", "10.32.0.77:80")
    assert answer.verdict == "not at all, because nobody is known to have 10.32.0.77"
    assert bad(way(answer)) == [("peer", "unknown_peer")]


def test_an_address_outside(world: World) -> None:
    answer = world.why.ask("client", "1.1.1.1:443")
    assert answer.verdict.startswith("outside slim's networks, because 1.1.1.1 is in no slim")


@pytest.mark.parametrize("target", ["db", "10.33.0.9"])
def test_no_network_in_common(world: World, target: str) -> None:
    world.elsewhere("db", endpoint("e0", "10.33.0.9/16", vni=BACK, host=THERE))
    answer = world.why.ask("client", target)
    assert answer.verdict.startswith("not at all, because there is no network in common: 10.33.0.9 "
                                     "is in back, client in app")


def test_a_services_tasks(world: World) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    vip = endpoint("f0", "10.32.9.9/16").address
    assert vip is not None
    tasks = tuple(each.ip for each in (world.web.address, world.endpoints[1].address) if each)
    world.maps.services[world.web.vni, vip.ip] = tasks
    answer = world.why.ask("client", "10.32.9.9")
    assert answer.verdict == ("to 10.32.0.6: host path; "
                              "to 10.32.0.3: directly, on this host")
    assert {str(each.service) for each in answer.ways} == {"10.32.9.9"}
    world.maps.services[world.web.vni, vip.ip] = ()
    answer = world.why.ask("client", "10.32.9.9")
    assert answer.verdict == "not at all, because no task of the service is there"


def test_where_to_type_it(world: World) -> None:
    with pytest.raises(NotFound, match=r"container 'web' is on node2 \(198.18.0.2\): type it"):
        world.why.ask("web", "client")


def test_what_nobody_knows(world: World) -> None:
    with pytest.raises(NotFound, match="no container 'nobody' is in a slim network on this host"):
        world.why.ask("nobody", "web")
    with pytest.raises(NotFound, match="no container 'nobody' is known in the networks of client"):
        world.why.ask("client", "nobody:80")


def test_a_container_that_is_going(world: World) -> None:
    world.gone.add(world.client.sandbox_key)
    with pytest.raises(NotFound, match="container client is just going"):
        world.why.ask("client", "web")


def test_an_endpoint_without_ipv4(world: World) -> None:
    world.add("six", endpoint("e0", "", address6="fd00:32::3/64"))
    answer = world.why.ask("six", "web")
    assert [each.target.version for each in answer.ways] == [6]
    assert "six has no IPv4 address in this network" in answer.verdict


def test_no_address_of_the_peers_family(world: World) -> None:
    world.elsewhere("six", endpoint("e0", "", address6="fd00:32::9/64", host=THERE))
    world.add("four", endpoint("f0", "10.32.0.4/16"))
    answer = world.why.ask("four", "six")
    assert answer.verdict == "not at all, because in app, four has no IPv6 address"


@pytest.mark.parametrize(("text", "found"), [
    ("web", ("web", 0)), ("web:80", ("web", 80)), ("10.32.0.6:443", ("10.32.0.6", 443)),
    ("fd00::6", ("fd00::6", 0)), ("[fd00::6]:80", ("fd00::6", 80)), ("[fd00::6]", ("fd00::6", 0))])
def test_targets(text: str, found: tuple[str, int]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize("text", ["", ":80", "web:", "web:0", "web:65536", "web:http", "web:-1",
                                  "[fd00::6", "[fd00::6]80", "[fd00::6]:", "web:²"])
def test_bad_targets(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


def test_over_an_ipv6_underlay_the_host_path_is_for_ipv6_addresses(world: World) -> None:
    world.underlay = IPv6Address("2001:db8::1")
    by_ipv4, by_ipv6 = world.why.ask("client", "web:80").ways
    assert (by_ipv4.target.version, by_ipv6.target.version) == (4, 6)
    assert bad(by_ipv4) == [("underlay", "ipv6_underlay")]
    assert by_ipv4.verdict == (
        "overlay path, because the underlay is IPv6: connections to IPv4 addresses cannot become "
        "ones of IPv6")
    assert by_ipv6.verdict == "host path"


def test_over_an_ipv6_underlay_sockets_may_be_ipv6_only(world: World) -> None:
    world.underlay = IPv6Address("2001:db8::1")
    _only_ipv6(world)
    by_ipv4, by_ipv6 = world.why.ask("client", "web:80").ways
    assert (by_ipv4.judgement.path, by_ipv6.judgement.path) == (Path.OVERLAY, Path.HOST)
