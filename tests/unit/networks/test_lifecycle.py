"""Tests networks: their key, their options, what they share, and what a start finds of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, ip_network

import pytest

from driver.errors import Conflict, DatapathError, InvalidArgument, StoreUnavailable
from driver.model import Endpoint, EndpointId, HostId, HostPath, NetworkId, Vni
from driver.services.addresses.overlaps import describe, overlap
from driver.services.endpoints.requests import EndpointRequest
from driver.services.networks.lifecycle import NetworkPool, network_key
from driver.services.options import HOST_PATH, MTU, parse
from driver.services.ports import RoutedNetwork
from driver.services.upkeep.reconcile import Reconciler, plan
from tests.support.fakes.ports import HOST, FakeListener, World

NET, NET2 = NetworkId("8c1f" * 16), NetworkId("77aa" * 16)
OTHER = HostId("b" * 32)


def pools(*texts: str, space: str = "slim-local") -> list[NetworkPool]:
    return [NetworkPool(space, ip_network(text)) for text in texts]


@pytest.mark.parametrize(("given", "key"), [
    (pools("10.50.0.0/16"), "pool:10.50.0.0/16"),
    (pools("10.50.0.0/16", space="slim-global"), "pool:10.50.0.0/16"),
    (pools("10.50.0.0/16", "10.51.0.0/16"), "pool:10.50.0.0/16"),
    (pools("fd00:50::/64"), "pool:fd00:50::/64"),
    (pools("10.50.0.0/16", space="LocalDefault"), f"id:{NET}"),
    (pools("0.0.0.0/0", space="null"), f"id:{NET}"), ([], f"id:{NET}")])
def test_key(given: list[NetworkPool], key: str) -> None:
    assert network_key(NET, given) == key


@pytest.mark.parametrize("options", [
    {"slim.mtu": "1400"}, {"slim.": ""}, {MTU: "x"}, {MTU: "0"}, {MTU: "575"}, {MTU: "65536"},
    {MTU: "-1400"}, {MTU: "1e3"}, {MTU: "1" * 100}])
def test_options_that_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(options)
    assert next(iter(options)) in str(caught.value)
    assert MTU in str(caught.value)


@pytest.mark.parametrize(("option", "advice"), [("mtu", MTU), ("encrypted", "TLS")])
def test_options_of_other_drivers_that_would_be_missed(option: str, advice: str) -> None:
    with pytest.raises(InvalidArgument, match=advice):
        parse({option: ""})


@pytest.mark.parametrize("text", ["no", "", "OFF", "0"])
def test_a_host_path_that_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"slim.host_path='{text}': want off, on, auto"):
        parse({HOST_PATH: text})


def test_options_that_are_accepted() -> None:
    assert parse({}).host_path is HostPath.AUTO
    assert [parse({HOST_PATH: each}).host_path for each in HostPath] == list(HostPath)
    assert parse({}).mtu == 0
    assert parse({MTU: "", "parent": "eth0", "com.docker.network.bridge.name": "x"}).mtu == 0
    assert parse({MTU: "1400"}).mtu == 1400
    assert parse({MTU: "1279"}).mtu == 1279
    with pytest.raises(InvalidArgument):
        parse({MTU: "1279"}, v6=True)


def test_two_docker_networks_of_one_pool_are_followed_until_both_are_gone() -> None:
    world = World()
    one = world.network_service.create_network(NET, pools("10.50.0.0/16"), {}, internal=False)
    two = world.network_service.create_network(NET2, pools("10.50.0.0/16"), {}, internal=False)
    assert one.vni == two.vni
    world.network_service.delete_network(NET)
    assert world.directory.live == {one.vni}
    world.network_service.delete_network(NET2)
    assert world.directory.live == set()


@pytest.mark.parametrize(("given", "says"), [
    (pools("172.18.4.0/24", space="LocalDefault"), "docker_gwbridge"),
    (pools("172.18.0.0/16"), "docker_gwbridge"),
    (pools("10.50.0.0/16", "fd00:50::/64"), r"br-0123456789ab \(Docker network 0123456789ab\)")])
def test_a_subnet_that_the_host_has_a_route_to(given: list[NetworkPool], says: str) -> None:
    world = World()
    world.routed += [RoutedNetwork(ip_network(text), device) for text, device in (
        ("172.18.0.0/16", "docker_gwbridge"), ("fd00:50::/60", "br-0123456789ab"))]
    before = world.live()
    with pytest.raises(Conflict, match=says):
        world.network_service.create_network(NET, given, {}, internal=False)
    assert world.live() == before
    nothing = pools("0.0.0.0/0", space="null")
    world.network_service.create_network(NET, nothing, {}, internal=False)


def test_a_network_on_record_is_created_again_whatever_routes_have_come() -> None:
    world = World()
    for _ in range(2):
        world.network_service.create_network(NET, pools("10.50.0.0/16"), {}, internal=False)
        world.routed.append(RoutedNetwork(ip_network("10.0.0.0/8"), "eth1"))
    with pytest.raises(Conflict, match=r"10\.0\.0\.0/8, .* over eth1;"):
        world.network_service.create_network(NET2, pools("10.50.0.0/16"), {}, internal=False)
    assert world.directory.live


def test_the_bridge_that_docker_will_make() -> None:
    """docker_gwbridge comes with the first container, and avoids Docker's pools, but not ours."""
    world = World()
    world.routed.append(RoutedNetwork(ip_network("172.17.0.0/16"), "docker0"))
    with pytest.raises(Conflict, match=r"overlaps 172\.18\.0\.0/16, which Docker gives to its "
                                       "network docker_gwbridge when"):
        world.network_service.create_network(NET, pools("172.18.7.0/24"), {}, internal=False)
    dockers = pools("172.18.0.0/16", space="LocalDefault")
    world.network_service.create_network(NET, dockers, {}, internal=False)
    world.network_service.create_network(NET2, pools("172.19.0.0/16"), {}, internal=False)


def test_the_network_named_is_the_smallest() -> None:
    routed = [RoutedNetwork(ip_network(text), device) for text, device in (
        ("10.0.0.0/8", "eth0"), ("10.50.0.0/16", "docker0"), ("10.48.0.0/12", ""))]
    found = overlap(ip_network("10.50.0.0/16"), routed)
    assert found is not None
    assert describe(found) == (
        "10.50.0.0/16, to which this host has a route over docker0 (Docker network bridge)")
    assert describe(routed[2]).endswith("a route over no device")


def test_log_says_what_dockers_command_does_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    service = World().network_service
    service.create_network(NET, pools("10.50.0.0/16"), {}, internal=False)
    assert caplog.text == ""
    service.create_network(NET2, pools("10.50.0.0/16"), {}, internal=False)
    service.create_network(NET2, pools("10.50.0.0/16"), {}, internal=False)
    assert caplog.text.count("have the same subnet") == 1
    assert "of this host alone" not in caplog.text
    service.create_network(NetworkId("3" * 64), pools("10.50.0.0/16", space="LocalDefault"), {},
                           internal=False)
    assert "of this host alone" in caplog.text


def test_docker_without_addresses_makes_a_network_without_subnets() -> None:
    world = World()
    network = world.network_service.create_network(NET, pools("0.0.0.0/0", space="null"), {},
                                                   internal=False)
    assert network.subnets == ()


def endpoint(name: str, address: str = "10.50.0.2/16", host: HostId = HOST.id,
             underlay: str = "198.18.0.1", sandbox_key: str = "") -> Endpoint:
    return Endpoint(EndpointId(name * 16), NET, Vni(7), host, IPv4Address(underlay), bytes(6),
                    IPv4Interface(address), None, 61000, sandbox_key)


def test_plan_of_a_start() -> None:
    world = World()
    joined, created = endpoint("a", sandbox_key="/run/a"), endpoint("b", "10.50.0.3/16")
    gone, stray = endpoint("c", "10.50.0.4/16", sandbox_key="/run/c"), endpoint("d")
    used = endpoint("e")
    for one in (joined, created, stray, used):
        world.links.create_veth(one.id, bytes(6), 1500)
    veths = world.links.list_veths()
    in_use = world.links.veth_name(used.id)
    veths[in_use] = replace(veths[in_use], carrier=True)
    steps = plan([joined, created, gone], veths, world.links.veth_name,
                 known_cookies={1, 2, 4}, wanted_cookies={2, 3}, known_ifindexes={
                     7, *(veth.host_ifindex for veth in world.links.live.values())},
                 is_gone=lambda cookie: cookie == 1)
    assert steps.adopt == (joined.id,)
    assert steps.strays == (world.links.veth_name(stray.id),)
    assert steps.dead_sandboxes == (1,)
    assert steps.dead_interfaces == (7, world.links.live[steps.strays[0]].host_ifindex)
    assert steps.doubtful == (f"link {in_use}", "sandbox 4")
    nothing = plan([], {}, world.links.veth_name, known_cookies=(), wanted_cookies=(),
                   known_ifindexes=(), is_gone=lambda _: True)
    assert nothing == type(nothing)((), (), (), (), ())


class Cookies:
    """Sandboxes with only cookies: the number at the key's end."""

    def cookie(self, sandbox_key: str) -> int | None:
        return int(sandbox_key.rsplit("/", maxsplit=1)[1])

    def set_up(self, *_: object, **__: object) -> None: ...

    def tear_down(self, *_: object) -> None: ...


class Leftovers:
    """An earlier driver's maps, with two sandboxes and one interface."""

    def __init__(self) -> None:
        self.withdrawn: list[tuple[str, int]] = []

    def sandbox_cookies(self) -> set[int]:
        return {1, 2}

    def endpoint_ifindexes(self) -> set[int]:
        return {7}

    def is_gone(self, cookie: int) -> bool:
        return True

    def owned_ports(self) -> set[int]:
        return set()

    def withdraw_sandbox(self, cookie: int) -> None:
        self.withdrawn.append(("sandbox", cookie))

    def withdraw_interface(self, host_ifindex: int) -> None:
        self.withdrawn.append(("interface", host_ifindex))


def reconciler(world: World, leftovers: Leftovers) -> Reconciler:
    return Reconciler(
        networks=world.networks, endpoints=world.endpoints, links=world.links,
        sandboxes=Cookies(), finisher=world.finisher, pinned=leftovers, following=world.following,
        listener=FakeListener(), service=world.endpoint_service, vips=world.vips)


def world_with_a_joined_endpoint() -> World:
    world = World()
    world.network_service.create_network(NET, pools("10.50.0.0/16"), {}, internal=False)
    world.endpoint_service.create_endpoint(EndpointRequest(
        endpoint("a").id, NET, IPv4Interface("10.50.0.2/16"), None, None))
    world.endpoint_service.join(NET, endpoint("a").id, "/run/2")
    world.links.create_veth(endpoint("d").id, bytes(6), 1500)
    # A driver that has just started does not know these.
    for forgotten in (world.datapath.live, world.finisher.live, world.directory.live):
        forgotten.clear()
    return world


def test_a_start_takes_over_and_tidies_up() -> None:
    world, leftovers = world_with_a_joined_endpoint(), Leftovers()
    reconciler(world, leftovers).run()
    a = endpoint("a").id
    assert list(world.links.live) == [world.links.veth_name(a)]
    assert (list(world.datapath.live), list(world.finisher.live)) == ([a], [a])
    assert world.directory.live == {1}
    assert leftovers.withdrawn == [("sandbox", 1), ("interface", 7)]


def test_a_start_without_etcd_touches_nothing() -> None:
    world, leftovers = world_with_a_joined_endpoint(), Leftovers()
    world.faults.down = True
    with pytest.raises(StoreUnavailable):
        reconciler(world, leftovers).run()
    world.faults.down = False
    assert len(world.links.live) == 2
    assert leftovers.withdrawn == []


def test_one_object_that_fails_does_not_keep_the_others() -> None:
    world, leftovers = world_with_a_joined_endpoint(), Leftovers()
    world.faults.reset()
    # 1: follow; 2: publish
    world.faults.fail_at, world.faults.error = 2, DatapathError
    reconciler(world, leftovers).run()
    assert list(world.links.live) == [world.links.veth_name(endpoint("a").id)]
