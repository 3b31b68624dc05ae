"""Networks: their key, their options, what they share, and what a start finds of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, ip_network

import pytest

from driver.errors import DatapathError, InvalidArgument, StoreUnavailable
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.endpoint_requests import EndpointRequest
from driver.services.network_options import MTU, parse
from driver.services.networks import Pool, network_key
from driver.services.publisher import Publisher
from driver.services.reconcile import Reconciler, plan
from tests.support.fakes import HOST, FakeDatapath, FakeListener, Faults, World

NET, NET2 = NetworkId("8c1f" * 16), NetworkId("77aa" * 16)
OTHER = HostId("b" * 32)


def pools(*texts: str, space: str = "slim-local") -> list[Pool]:
    return [Pool(space, ip_network(text)) for text in texts]


@pytest.mark.parametrize(("given", "key"), [
    (pools("10.50.0.0/16"), "pool:10.50.0.0/16"),
    (pools("10.50.0.0/16", space="slim-global"), "pool:10.50.0.0/16"),
    (pools("10.50.0.0/16", "10.51.0.0/16"), "pool:10.50.0.0/16"),
    (pools("fd00:50::/64"), "pool:fd00:50::/64"),
    (pools("10.50.0.0/16", space="LocalDefault"), f"id:{NET}"),
    (pools("0.0.0.0/0", space="null"), f"id:{NET}"), ([], f"id:{NET}")])
def test_key(given: list[Pool], key: str) -> None:
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


def test_options_that_are_accepted() -> None:
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


def place(endpoint: Endpoint) -> tuple[object, ...]:
    assert endpoint.address is not None
    return endpoint.vni, endpoint.address.ip, endpoint.underlay, endpoint.port, endpoint.mac


class RecordingDatapath(FakeDatapath):
    """Remembers the directory and the floods as the maps would hold them."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.places: dict[object, Endpoint] = {}  # the map's key is VNI and address
        self.empty = False  # some time after the first entry
        self.floods: dict[Vni, tuple[list[str], list[int]]] = {}

    def put_remote(self, endpoint: Endpoint) -> None:
        self.faults.effect("datapath.put_remote", lambda: self.enter(endpoint))

    def enter(self, endpoint: Endpoint) -> None:
        self.places[place(endpoint)[:2]] = endpoint

    @property
    def directory(self) -> dict[EndpointId, Endpoint]:
        assert len({known.id for known in self.places.values()}) == len(self.places)
        return {known.id: known for known in self.places.values()}

    def list_remotes(self) -> list[Endpoint]:
        return list(self.places.values())

    def delete_remote(self, endpoint: Endpoint) -> None:
        # By what an entry says: the names are not in the maps, and what is overwritten stays.
        if endpoint.address is not None:
            known = self.places.get(place(endpoint)[:2])
            if known is not None and place(known) == place(endpoint):
                del self.places[place(endpoint)[:2]]
                self.empty |= not self.places

    def set_flood(self, vni, hosts, ifindexes) -> None:  # type: ignore[no-untyped-def]
        self.faults.effect("datapath.set_flood", lambda: self.floods.__setitem__(
            vni, ([str(host) for host in hosts], list(ifindexes))))


@pytest.fixture
def datapath() -> RecordingDatapath:
    return RecordingDatapath(Faults(error=DatapathError))


def test_snapshot_takes_out_what_is_not_in_it(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    a, b = endpoint("a"), endpoint("b", "10.50.0.3/16", OTHER, "198.18.0.2")
    publisher.snapshot(Vni(7), [a, b])
    assert set(datapath.directory) == {a.id, b.id}
    assert datapath.floods[Vni(7)] == (["198.18.0.2"], [])
    publisher.snapshot(Vni(7), [b])
    assert set(datapath.directory) == {b.id}
    publisher.removed(Vni(7), b.id)
    publisher.removed(Vni(7), b.id)
    assert datapath.directory == {}
    assert datapath.floods[Vni(7)] == ([], [])


def test_what_a_driver_before_entered_goes_with_the_first_snapshot_that_lacks_it(
        datapath: RecordingDatapath) -> None:
    kept, gone = endpoint("a"), endpoint("b", "10.50.0.3/16", OTHER, "198.18.0.2")
    elsewhere = replace(endpoint("c"), vni=Vni(8))
    Publisher(datapath, HOST.id).snapshot(Vni(7), [kept, gone])
    datapath.enter(elsewhere)
    restarted = Publisher(datapath, HOST.id)
    assert set(datapath.directory) == {kept.id, gone.id, elsewhere.id}
    restarted.snapshot(Vni(7), [kept])
    assert set(datapath.directory) == {kept.id, elsewhere.id}
    restarted.followed([Vni(7)])
    assert set(datapath.directory) == {kept.id}


def test_one_that_takes_the_place_of_another_keeps_its_entry(
        datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    publisher.snapshot(Vni(7), [endpoint("a")])
    publisher.snapshot(Vni(7), [endpoint("b")])  # same address, host, port and MAC
    assert set(datapath.directory) == {endpoint("b").id}
    publisher.snapshot(Vni(7), [])
    assert datapath.directory == {}


def test_a_changed_endpoint_replaces_its_old_entry(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    publisher.put(endpoint("a"))
    moved = endpoint("a", host=OTHER, underlay="198.18.0.2")
    publisher.put(moved)
    assert datapath.directory == {moved.id: moved}
    writes = len(datapath.faults.done)
    publisher.put(endpoint("a", host=OTHER, underlay="198.18.0.2", sandbox_key="/x"))
    assert len(datapath.faults.done) == writes  # joining is nothing to its peers


def test_a_changed_endpoint_is_known_all_the_time(datapath: RecordingDatapath) -> None:
    """No connect() finds it missing: what is new is entered before what is old goes."""
    publisher = Publisher(datapath, HOST.id)
    for changed in (endpoint("a"), replace(endpoint("a"), port=61001),
                    replace(endpoint("a", "10.50.0.3/16"), port=61001),
                    replace(endpoint("a", "10.50.0.3/16"), port=61001, mac=b"\2" * 6),
                    endpoint("a", "10.50.0.4/16", OTHER, "198.18.0.2")):
        publisher.put(changed)
        assert [place(known) for known in datapath.directory.values()] == [place(changed)]
    assert not datapath.empty


def test_a_refused_change_leaves_nothing_outdated(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    publisher.put(endpoint("a"))
    datapath.faults.reset()
    datapath.faults.fail_at = 1
    publisher.put(endpoint("a", "10.50.0.3/16"))
    assert datapath.directory == {}
    datapath.faults.reset()
    publisher.retry()
    assert [place(known)[1] for known in datapath.directory.values()] == [
        IPv4Address("10.50.0.3")]


def test_a_refused_entry_is_tried_again_with_the_next_snapshot(
        datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    datapath.faults.fail_at = 1
    publisher.put(endpoint("a"))
    assert datapath.directory == {}
    datapath.faults.reset()
    publisher.snapshot(Vni(7), [endpoint("a")])
    assert set(datapath.directory) == {endpoint("a").id}


def test_local_links_get_broadcasts_while_they_are_published(
        datapath: RecordingDatapath) -> None:
    world = World()
    veth = world.links.create_veth(endpoint("a").id, bytes(6), 1500)
    publisher = Publisher(datapath, HOST.id)
    publisher.publish_endpoint(endpoint("a"), veth)
    assert datapath.floods[Vni(7)] == ([], [veth.host_ifindex])
    publisher.withdraw_endpoint(endpoint("a"), 0)
    assert datapath.floods[Vni(7)] == ([], [])
    assert datapath.withdrawn_ifindexes == [veth.host_ifindex]  # known though the link is gone
    datapath.faults.reset()
    datapath.faults.fail_at = 2
    with pytest.raises(DatapathError):
        publisher.publish_endpoint(endpoint("a"), veth)
    publisher.withdraw_endpoint(endpoint("a"), veth.host_ifindex)  # as Join's undoing does
    assert datapath.live == {}
    assert datapath.floods[Vni(7)] == ([], [])


def test_plan_of_a_start() -> None:
    world = World()
    joined, created = endpoint("a", sandbox_key="/run/a"), endpoint("b", "10.50.0.3/16")
    gone, stray = endpoint("c", "10.50.0.4/16", sandbox_key="/run/c"), endpoint("d")
    for one in (joined, created, stray):
        world.links.create_veth(one.id, bytes(6), 1500)
    steps = plan([joined, created, gone], world.links.list_veths(), world.links.veth_name,
                 known_cookies={1, 2}, wanted_cookies={2, 3}, known_ifindexes={
                     7, *(veth.host_ifindex for veth in world.links.live.values())})
    assert steps.adopt == (joined.id,)
    assert steps.strays == (world.links.veth_name(stray.id),)
    assert steps.dead_sandboxes == (1,)
    assert steps.dead_interfaces == (7, world.links.live[steps.strays[0]].host_ifindex)
    nothing = plan([], {}, world.links.veth_name, known_cookies=(), wanted_cookies=(),
                   known_ifindexes=())
    assert nothing == type(nothing)((), (), (), ())


class Cookies:
    """Sandboxes of which only the cookies matter: by the number at the key's end."""

    def cookie(self, sandbox_key: str) -> int | None:
        return int(sandbox_key.rsplit("/", maxsplit=1)[1])

    def set_up(self, *_: object, **__: object) -> None: ...

    def tear_down(self, *_: object) -> None: ...


class Leftovers:
    """Maps with two sandboxes and one interface of an earlier driver."""

    def __init__(self) -> None:
        self.withdrawn: list[tuple[str, int]] = []

    def sandbox_cookies(self) -> set[int]:
        return {1, 2}

    def endpoint_ifindexes(self) -> set[int]:
        return {7}

    def withdraw_sandbox(self, cookie: int) -> None:
        self.withdrawn.append(("sandbox", cookie))

    def withdraw_interface(self, host_ifindex: int) -> None:
        self.withdrawn.append(("interface", host_ifindex))


def reconciler(world: World, leftovers: Leftovers) -> Reconciler:
    return Reconciler(
        networks=world.networks, endpoints=world.endpoints, links=world.links,
        sandboxes=Cookies(), finisher=world.finisher, pinned=leftovers, directory=world.directory,
        listener=FakeListener(), service=world.endpoint_service, services=world.services)


def world_with_a_joined_endpoint() -> World:
    world = World()
    world.network_service.create_network(NET, pools("10.50.0.0/16"), {}, internal=False)
    world.endpoint_service.create_endpoint(EndpointRequest(
        endpoint("a").id, NET, IPv4Interface("10.50.0.2/16"), None, None))
    world.endpoint_service.join(NET, endpoint("a").id, "/run/2")
    world.links.create_veth(endpoint("d").id, bytes(6), 1500)
    # What a driver that has just started knows:
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
