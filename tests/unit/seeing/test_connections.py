"""Tests which connections are listed, by which names, and what is said of those that are not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from driver.errors import Conflict, InvalidArgument, NotFound
from driver.services.ports import Names, OpenSocket, Path, SocketFilter
from driver.services.seeing import connections
from driver.services.seeing.connections import Connection, Listing
from tests.unit.seeing.world import BACK, HERE, THERE, World, endpoint, socket

ALL = SocketFilter()


@pytest.fixture
def world() -> World:
    return World()


def on_host_path(world: World, local: str = "10.32.0.2", peer: str = "10.32.0.6", *,
                 port: int = 40001, age_s: float | None = 61.0) -> OpenSocket:
    """A connection of the client's to port 80 of the web server."""
    one = socket(f"{HERE}:{port}", f"{THERE}:61005", rtt_us=120)
    flow = THERE, 61005, port
    world.stored.append((one, Names(ip_address(local), port, ip_address(peer), 80, flow,
                                    accepted=False)))
    if age_s is not None:
        world.maps.flows[flow] = age_s
    return one


def listed(world: World, wanted: SocketFilter = ALL, **of: OpenSocket | list[OpenSocket]
           ) -> Listing:
    """List what is wanted while the containers, by the digits of their keys, have these."""
    for digits, sockets in of.items():
        world.open[f"/netns/{digits}"] = sockets if isinstance(sockets, list) else [sockets]
    return world.connections.list(wanted)


def only(listing: Listing) -> Connection:
    assert (listing.more, listing.unread) == ({}, {})
    found, = listing.connections
    return found


def ends(found: Connection) -> str:
    return f"{found.local}:{found.local_port} {found.peer}:{found.peer_port}"


def test_a_connection_on_the_host_path_as_its_program_sees_it(world: World) -> None:
    found = only(listed(world, c0=on_host_path(world)))
    assert ends(found) == "10.32.0.2:40001 10.32.0.6:80"
    assert (found.container, found.network, found.path, found.age_s) == (
        "client", "app", Path.HOST, 61.0)
    assert (found.peer_name, found.peer_host) == ("web", f"node2 ({THERE})")
    assert found.socket.rtt_us == 120


def test_its_ipv6_names(world: World) -> None:
    found = only(listed(world, c0=on_host_path(world, "fd00:32::2", "fd00:32::6")))
    assert ends(found) == "fd00:32::2:40001 fd00:32::6:80"
    assert (found.path, found.peer_name) == (Path.HOST, "web")


def test_a_service_that_was_called(world: World) -> None:
    """The program sees the service's address; the name is that of the task that answers."""
    found = only(listed(world, c0=on_host_path(world, peer="10.32.9.9")))
    assert (str(found.peer), found.peer_name) == ("10.32.9.9", "web")


def test_an_accepted_one(world: World) -> None:
    one = socket(f"{HERE}:61000", f"{THERE}:40002")
    world.stored.append((one, Names(ip_address("10.32.0.2"), 80, ip_address("10.32.0.6"), 40002,
                                    (THERE, 40002, 61000), accepted=True)))
    found = only(listed(world, c0=one))
    assert ends(found) == "10.32.0.2:80 10.32.0.6:40002"
    assert (found.peer_name, found.path, found.age_s) == ("web", Path.HOST, None)


def test_one_whose_names_are_lost(world: World) -> None:
    """Another layout's driver has made it: its program sees the hosts' addresses, too."""
    world.maps.flows[THERE, 61005, 40001] = 5.0
    found = only(listed(world, c0=socket(f"{HERE}:40001", f"{THERE}:61005")))
    assert (found.path, found.age_s, str(found.local)) == (Path.HOST, 5.0, str(HERE))


@pytest.mark.parametrize(("peer", "path", "name", "host"), [
    ("10.32.0.6", Path.OVERLAY, "web", f"node2 ({THERE})"),
    ("10.32.0.3", Path.LOCAL, "next", "this host"),
    ("10.32.0.99", Path.OVERLAY, "", "")], ids=["elsewhere", "here", "nobody's"])
def test_the_other_paths(world: World, peer: str, path: Path, name: str, host: str) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    found = only(listed(world, c0=socket("10.32.0.2:40001", f"{peer}:80")))
    assert (found.path, found.peer_name, found.peer_host, found.age_s) == (path, name, host, None)


def test_a_service_over_the_overlay(world: World) -> None:
    one = socket("10.32.0.2:40001", "10.32.0.6:80")
    world.called_services.append((one, IPv4Address("10.32.9.9")))
    found = only(listed(world, c0=one))
    assert (str(found.peer), found.peer_name, found.path) == ("10.32.9.9", "web", Path.OVERLAY)


def test_what_is_not_of_slim_is_left_out_unless_all_is_asked_for(world: World) -> None:
    outside = [socket("127.0.0.1:5000", "127.0.0.1:6000"), socket("172.18.0.2:4000", "1.1.1.1:443")]
    assert listed(world, c0=outside).connections == []
    for wanted in (SocketFilter(everything=True), SocketFilter(path=Path.OUTSIDE)):
        found = listed(world, wanted, c0=outside).connections
        assert [(each.path, each.network) for each in found] == [(Path.OUTSIDE, "")] * 2


def test_one_path_or_network_or_container(world: World) -> None:
    world.add("both", endpoint("e0", "10.32.0.3/16", key="/netns/e0"),
              endpoint("f0", "10.33.0.3/16", vni=BACK, key="/netns/e0"))
    sockets = {"c0": [on_host_path(world), socket("10.32.0.2:1", "10.32.0.3:2")],
               "e0": [socket("10.33.0.3:1", "10.33.0.9:2"), socket("10.32.0.3:2", "10.32.0.2:1")]}

    def count(wanted: SocketFilter) -> int:
        return len(listed(world, wanted, **sockets).connections)

    assert count(ALL) == 4
    assert count(SocketFilter(path=Path.HOST)) == 1
    assert count(SocketFilter(path=Path.LOCAL)) == 2
    for network in ("back", "10.33.0.0/16", "b0b"):
        assert count(SocketFilter(network=network)) == 1
    for container in ("both", "e0e", "f0f0"):
        assert count(SocketFilter(container=container)) == 2
    assert count(SocketFilter(container="both", path=Path.OVERLAY)) == 1


def test_listeners(world: World) -> None:
    sockets = [socket("0.0.0.0:80", "0.0.0.0:0", state="LISTEN", waiting=3, backlog=128),
               socket("10.32.0.2:81", "0.0.0.0:0", state="LISTEN"),
               socket("127.0.0.11:53", "0.0.0.0:0", state="LISTEN"), on_host_path(world)]
    found = listed(world, SocketFilter(listening=True), c0=sockets).connections
    assert [(str(each.local), each.local_port, each.network) for each in found] == [
        ("0.0.0.0", 80, ""), ("10.32.0.2", 81, "app")]
    assert (found[0].socket.waiting, found[0].socket.backlog) == (3, 128)
    assert len(listed(world, SocketFilter(listening=True, everything=True),
                      c0=sockets).connections) == 3
    assert len(listed(world, SocketFilter(listening=True, network="app"),
                      c0=sockets).connections) == 2


def test_by_container_then_peer(world: World) -> None:
    world.add("a", endpoint("e0", "10.32.0.3/16"))
    found = listed(world, c0=[socket("10.32.0.2:9", "10.32.0.10:1"),
                              socket("10.32.0.2:8", "10.32.0.9:2"),
                              socket("10.32.0.2:7", "10.32.0.9:1")],
                   e0=[socket("10.32.0.3:5", "10.32.0.200:1")]).connections
    assert [(each.container, str(each.peer), each.peer_port) for each in found] == [
        ("a", "10.32.0.200", 1), ("client", "10.32.0.9", 1), ("client", "10.32.0.9", 2),
        ("client", "10.32.0.10", 1)]


# What is left out is named.

def test_a_container_that_has_gone_is_none(world: World) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    world.gone.add("/netns/e0")
    found = listed(world, c0=on_host_path(world), e0=socket("10.32.0.3:5", "10.32.0.2:1"))
    assert only(found).container == "client"


def test_a_container_that_cannot_be_read(world: World) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    world.broken["/netns/e0"] = "not permitted"
    found = listed(world, c0=on_host_path(world))
    assert [each.container for each in found.connections] == ["client"]
    assert found.unread == {"next": "not permitted"}


def test_more_than_are_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ROWS", 4)
    monkeypatch.setattr(connections, "ROWS_LEAST", 1)
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    many = [socket(f"10.32.0.2:{port}", "10.32.0.6:80") for port in range(1, 8)]
    found = listed(world, c0=many, e0=[socket("10.32.0.3:5", "10.32.0.2:1"),
                                       socket("10.32.0.3:6", "10.32.0.2:1")])
    assert [each.container for each in found.connections] == ["client"] * 4 + ["next"]
    assert found.more == {"client": 3, "next": 1}


def test_a_time_that_is_over(world: World) -> None:
    world.add("next", endpoint("e0", "10.32.0.3/16"))
    world.add("other", endpoint("f0", "10.32.0.4/16"))

    def later() -> None:
        world.now_s += 0.6 * connections.BUDGET_S

    world.on_read = later
    found = listed(world, c0=on_host_path(world), e0=socket("10.32.0.3:5", "10.32.0.2:1"))
    assert [each.container for each in found.connections] == ["client"]
    assert found.unread == {"next": "it has more than could be read in time",
                            "other": "there was no time left for it"}


# Bad input.

@pytest.mark.parametrize(("wanted", "says"), [
    (SocketFilter(container="webb"), "no container 'webb' is in a slim network on this host; "
     "there are client"),
    (SocketFilter(container="c0"), "there are client"),  # two digits of an id are too few
    (SocketFilter(network="apple"), "no slim network 'apple' is on this host; there are app, back"),
    (SocketFilter(container="web"), "no container 'web'")])
def test_what_does_not_exist(world: World, wanted: SocketFilter, says: str) -> None:
    with pytest.raises(NotFound) as failed:
        world.connections.list(wanted)
    assert says in str(failed.value)


def test_an_id_that_is_not_long_enough(world: World) -> None:
    world.add("other", replace(endpoint("c0", "10.32.0.3/16", key="/netns/x"),
                               id=world.client.id[:-1] + "1"))
    with pytest.raises(Conflict, match="'c0c0c' may be client or other"):
        world.connections.list(SocketFilter(container="c0c0c"))


def test_without_docker_ids_are_shown(world: World) -> None:
    world.containers.clear()
    assert only(listed(world, c0=on_host_path(world))).container == "c0c0c0c0c0c0"
    world.endpoints[0] = replace(world.client, names=("client", "front"))
    assert only(listed(world)).container == "client"
    assert only(listed(world, SocketFilter(container="front"))).container == "client"


def test_no_container_at_all(world: World) -> None:
    world.endpoints.clear()
    assert world.connections.list(ALL) == Listing()
    with pytest.raises(NotFound, match="no other one is, either"):
        world.connections.list(SocketFilter(container="client"))


def test_a_listener_has_no_path(world: World) -> None:
    with pytest.raises(InvalidArgument, match="a listener has no path"):
        world.connections.list(SocketFilter(listening=True, path=Path.HOST))
