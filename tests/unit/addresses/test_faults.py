"""Fails every use case at call k on the store, for every k, before and after the call's effect.

Then the same use case must succeed, and undoing everything must leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_interface

import pytest

from driver.errors import StoreUnavailable
from driver.model import Endpoint, EndpointId, Network, NetworkId, NetworkKey
from driver.services.addresses.service import AddressService
from driver.store.endpoints import EtcdEndpoints
from driver.store.format import keys
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kv import FakeKeyValue, FaultyKeyValue
from tests.support.world.addressing import GATEWAY, host_id, service
from tests.support.world.etcd import live

POOL = "10.32.0.0/24"
POOL_ID = f"slim-local/{POOL}"
NAMED = {"com.docker.network.endpoint.name": "web"}
HOST = host_id(1)
NETWORK = NetworkId("n" * 64)
ENDPOINT = EndpointId("e" * 64)


class Scene:
    """A host whose store fails on demand."""

    def __init__(self) -> None:
        self.kv = FakeKeyValue()
        self.faulty = FaultyKeyValue(self.kv, lambda _: "")
        self.addresses: AddressService = service(self.faulty)
        self.networks = EtcdNetworks(self.faulty, HOST)
        self.endpoints = EtcdEndpoints(self.faulty, HOST, self.networks)

    def request_pool(self) -> str:
        return self.addresses.request_pool(
            "slim-local", POOL, "", v6=False, options={}).pool_id

    def create_network(self) -> Network:
        return self.networks.create(NETWORK, NetworkKey(f"pool:{POOL}"), subnets=(POOL,),
                                    internal=False, mtu=0)

    def create_endpoint(self) -> None:
        self.endpoints.create(self.endpoint())

    def endpoint(self, sandbox_key: str = "") -> Endpoint:
        network = self.networks.get(NETWORK)
        assert network is not None
        return Endpoint(
            id=ENDPOINT, network_id=NETWORK, vni=network.vni, host=HOST,
            underlay=IPv4Address("192.0.2.1"), mac=bytes(6),
            address=ip_interface("10.32.0.9/24"),  # type: ignore[arg-type]
            address6=None, port=61000, sandbox_key=sandbox_key)

    def replace_endpoint(self) -> None:
        self.endpoints.replace(self.endpoint("/run/netns/x"))

    def delete_endpoint(self) -> None:
        self.endpoints.delete(ENDPOINT)

    def delete_network(self) -> None:
        self.networks.delete(NETWORK)

    def address(self, address: str = "", **options: str) -> str:
        return str(self.addresses.request_address(POOL_ID, address, options=options).ip)

    def state(self) -> list[str]:
        return sorted(entry.key for entry in live(self.kv.range(keys.ROOT).entries))


Step = Callable[[Scene], object]


def nothing(_: Scene) -> None:
    """Prepare nothing."""


def pool(scene: Scene) -> None:
    scene.request_pool()


def pool_and_address(scene: Scene) -> None:
    scene.request_pool()
    scene.address("10.32.0.9")


def pool_and_gateway(scene: Scene) -> None:
    scene.request_pool()
    scene.address(**GATEWAY)


def network(scene: Scene) -> None:
    pool_and_address(scene)
    scene.create_network()
    scene.networks.list()
    scene.endpoints.list()


def endpoint(scene: Scene) -> None:
    network(scene)
    scene.create_endpoint()


CASES: dict[str, tuple[Step, Step]] = {
    "request_pool": (nothing, lambda s: s.request_pool()),
    "request_pool again": (pool, lambda s: s.request_pool()),
    "request_pool automatic": (nothing, lambda s: s.addresses.request_pool(
        "slim-local", "", "", v6=False, options={})),
    "request_address any": (pool, lambda s: s.address()),
    "request_address any, named": (pool, lambda s: s.address(**NAMED)),
    "request_address exact": (pool, lambda s: s.address("10.32.0.9")),
    "request_address gateway": (pool, lambda s: s.address(**GATEWAY)),
    "release_address": (
        pool_and_address, lambda s: s.addresses.release_address(POOL_ID, "10.32.0.9")),
    "release_address gateway": (
        pool_and_gateway, lambda s: s.addresses.release_address(POOL_ID, "10.32.0.1")),
    "release_pool": (pool_and_gateway, lambda s: s.addresses.release_pool(POOL_ID)),
    "create network": (pool, lambda s: s.create_network()),
    "delete network": (network, lambda s: s.delete_network()),
    "create endpoint": (network, lambda s: s.create_endpoint()),
    "replace endpoint": (endpoint, lambda s: s.replace_endpoint()),
    "delete endpoint": (endpoint, lambda s: s.delete_endpoint()),
}


def once(k: int, when: str) -> Callable[[int], str]:
    return lambda call: when if call == k else ""


def from_then_on(k: int, when: str) -> Callable[[int], str]:
    # Fail the k-th call as `when` says, and all later ones (reading back) without effect.
    return lambda call: "" if call < k else when if call == k else "before"


@pytest.mark.parametrize("outage", [once, from_then_on])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", CASES)
def test_every_step_may_fail(name: str, when: str,
                             outage: Callable[[int, str], Callable[[int], str]]) -> None:
    prepare, call = CASES[name]
    undisturbed = Scene()
    prepare(undisturbed)
    call(undisturbed)
    for k in range(1, 100):
        scene = Scene()
        prepare(scene)
        scene.faulty.calls = 0
        scene.faulty.fails = outage(k, when)
        failed = fails(scene, call)
        reached = scene.faulty.calls >= k
        scene.faulty.fails = lambda _: ""
        if failed:
            call(scene)
        if "any" not in name:  # else another address is right, too
            assert scene.state() == undisturbed.state(), f"fault at call {k}"
        assert len(scene.state()) == len(undisturbed.state()), f"fault at call {k}"
        tear_down(scene, prepare_count=2 if name == "request_pool again" else 1)
        assert scene.state() == [], f"fault at call {k}"
        if not reached:
            assert k > 1
            return
    raise AssertionError("the use case never ends")


def fails(scene: Scene, call: Step) -> bool:
    try:
        call(scene)
    except StoreUnavailable:
        return True
    return False


def tear_down(scene: Scene, prepare_count: int) -> None:
    scene.delete_endpoint()
    scene.delete_network()
    pools = {keys.subnet_of(key) for key in scene.state() if key.startswith(keys.SUBNETS)}
    for cidr in pools:
        for key in scene.state():
            if key.startswith(keys.addresses(cidr)):
                scene.addresses.release_address(
                    f"slim-local/{cidr}", str(keys.address_of(key)))
        for _ in range(prepare_count):
            scene.addresses.release_pool(f"slim-local/{cidr}")


@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_that_failed_is_not_leaked_though_it_is_never_repeated(
        k: int, when: str) -> None:
    scene = Scene()
    scene.faulty.fails = from_then_on(k, when)
    for call in (Scene.request_pool, Scene.address):
        if fails(scene, call):
            break
    scene.faulty.fails = lambda _: ""
    # Any later call settles it.
    scene.addresses.release_pool("slim-local/10.99.0.0/16")
    before = [key for key in scene.state() if key.startswith(keys.ADDRESSES)]
    assert before == [] or k > 5, "what was never answered is not held"
    scene.addresses.release_pool(POOL_ID)
    assert scene.state() == []


def test_a_failed_release_is_done_later_and_only_once() -> None:
    scene = Scene()
    scene.request_pool()
    scene.request_pool()
    address = scene.address()
    scene.kv.store.away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            scene.addresses.release_address(POOL_ID, address)
    with pytest.raises(StoreUnavailable):
        scene.addresses.release_pool(POOL_ID)
    scene.kv.store.away = False
    assert scene.address(address) == address, "free again, and then given to this request"
    assert scene.address(address) == address
    scene.addresses.release_address(POOL_ID, address)
    scene.addresses.release_pool(POOL_ID)
    assert scene.state() == []


@pytest.mark.parametrize(("prepare", "call"), [
    (pool_and_address, Scene.create_network), (network, Scene.create_endpoint)])
@pytest.mark.parametrize("k", range(1, 9))
def test_a_creation_that_failed_is_undone(prepare: Step, call: Step, k: int) -> None:
    scene = Scene()
    prepare(scene)
    before = scene.state()
    scene.faulty.calls = 0
    scene.faulty.fails = from_then_on(k, "after")
    failed = fails(scene, call)
    scene.faulty.fails = lambda _: ""
    scene.networks.delete(NetworkId("x" * 64))
    scene.endpoints.delete(EndpointId("x" * 64))
    assert failed == (scene.state() == before)
