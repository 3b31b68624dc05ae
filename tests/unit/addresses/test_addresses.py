"""Tests driver/services/addresses/service.py: dockerd's requests of the IPAM, and the answers."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from driver.errors import Conflict, Exhausted, InvalidArgument, NotFound
from driver.model import Endpoint, EndpointId, NetworkId, NetworkKey
from driver.services.addresses.requests import SPARE
from driver.services.addresses.service import AddressService
from driver.store.endpoints import EtcdEndpoints
from driver.store.format import keys
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kv import FakeKeyValue
from tests.support.world.addressing import GATEWAY, host_id, service

LOCAL, GLOBAL = "slim-local", "slim-global"
POOL = "10.32.0.0/24"


@pytest.fixture
def kv() -> FakeKeyValue:
    return FakeKeyValue()


@pytest.fixture
def one(kv: FakeKeyValue) -> AddressService:
    return service(kv, 1)


@pytest.fixture
def two(kv: FakeKeyValue) -> AddressService:
    return service(kv, 2)


def request(on: AddressService, pool: str = POOL, sub_pool: str = "", space: str = LOCAL, *,
            v6: bool = False, options: dict[str, str] | None = None) -> str:
    return on.request_pool(space, pool, sub_pool, v6=v6, options=options or {}).pool_id


def get(on: AddressService, pool_id: str, address: str = "", **options: str) -> str:
    return str(on.request_address(pool_id, address, options=options).ip)


def gateway(on: AddressService, pool_id: str, address: str = "") -> str:
    return str(on.request_address(pool_id, address, options=GATEWAY))


def everything(kv: FakeKeyValue) -> list[str]:
    return [entry.key for entry in kv.range(keys.ROOT).entries]


def live_endpoint(kv: FakeKeyValue, number: int, address: str,
                  endpoint: str = "e") -> EtcdEndpoints:
    networks = EtcdNetworks(kv, host_id(number))
    network = networks.create(NetworkId("n" * 64), NetworkKey(f"pool:{POOL}"), subnets=(POOL,),
                              internal=False, mtu=0)
    endpoints = EtcdEndpoints(kv, host_id(number), networks)
    endpoints.create(Endpoint(
        id=EndpointId(endpoint * 64), network_id=network.id, vni=network.vni,
        host=host_id(number), underlay=ip_address(f"192.0.2.{number}"),  # type: ignore[arg-type]
        mac=bytes(6), address=ip_interface(f"{address}/24"),  # type: ignore[arg-type]
        address6=None, port=61000))
    return endpoints


# Pools.

def test_two_spaces(one: AddressService) -> None:
    assert one.default_spaces() == (LOCAL, GLOBAL)
    with pytest.raises(InvalidArgument, match="other-space"):
        request(one, space="other-space")


def test_same_request_same_pool_counted(kv: FakeKeyValue, one: AddressService) -> None:
    pool_id = request(one)
    assert pool_id == "slim-local/10.32.0.0/24"
    assert request(one) == pool_id
    one.release_pool(pool_id)
    get(one, pool_id)
    one.release_pool(pool_id)
    with pytest.raises(NotFound, match="not in use"):
        get(one, pool_id)
    assert everything(kv) == []


def test_pools_of_two_hosts_are_one_pool(
        kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    pool_id = request(one)
    assert request(two) == pool_id
    one.release_pool(pool_id)
    one.release_pool(pool_id)
    get(two, pool_id)
    two.release_pool(pool_id)
    assert everything(kv) == []


def test_spaces_are_released_apart(kv: FakeKeyValue, one: AddressService) -> None:
    local, everywhere = request(one), request(one, space=GLOBAL)
    assert local != everywhere
    address = get(one, everywhere)
    assert get(one, local, address) == address
    one.release_address(local, address)
    with_global = get(one, local)
    assert with_global != address, "the global space still has it"
    one.release_pool(local)
    assert get(one, everywhere, address) == address
    one.release_pool(everywhere)
    assert everything(kv) == []


def test_sub_pool_has_its_own_id_and_the_whole_subnet(one: AddressService) -> None:
    subnet = one.request_pool(LOCAL, POOL, "10.32.0.64/27", v6=False, options={})
    assert subnet.pool_id == "slim-local/10.32.0.0/24/10.32.0.64/27"
    assert subnet.subnet == POOL
    for _ in range(32):
        address = one.request_address(subnet.pool_id, "", options={})
        assert address.ip in ip_network("10.32.0.64/27")
        assert address.network.prefixlen == 24
    with pytest.raises(Exhausted):
        get(one, subnet.pool_id)
    assert gateway(one, subnet.pool_id, "10.32.0.254") == "10.32.0.254/24"
    assert get(one, subnet.pool_id, "10.32.0.5") == "10.32.0.5"


def test_overlap_is_refused_equality_is_not(one: AddressService, two: AddressService) -> None:
    request(one)
    for pool in ("10.32.0.0/16", "10.32.0.128/25"):
        with pytest.raises(Conflict, match=r"overlaps 10\.32\.0\.0/24"):
            request(two, pool)
    request(two, POOL, "10.32.0.128/25")


def test_automatic_pools_differ_until_none_is_left(
        kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    given = [request(on, "") for on in (one, two, one, two)]
    assert len(set(given)) == 4
    for on in (one, two):
        with pytest.raises(Exhausted, match=r"10\.128\.0\.0/24"):
            request(on, "")
    two.release_pool(given[1])
    assert request(one, "") == given[1]
    assert request(one, "", v6=True) == "slim-local/fd73::/64"


def test_automatic_pools_avoid_what_there_is(kv: FakeKeyValue) -> None:
    on = service(kv, routed=[ip_network("10.128.0.0/26"), ip_network("fd73::/64")])
    request(on, "10.128.0.64/28")
    assert request(on, "") == "slim-local/10.128.0.128/26"
    assert request(on, "", v6=True) == "slim-local/fd73:0:0:1::/64"


def test_automatic_pools_avoid_the_bridge_that_docker_will_make(kv: FakeKeyValue) -> None:
    """docker_gwbridge comes with the first container, and gets a pool that has no route then."""
    on = service(kv, supernet="172.16.0.0/14", prefixlen=16, routed=[ip_network("172.17.0.0/16")])
    given = [request(on, "") for _ in range(2)]
    assert given == ["slim-local/172.16.0.0/16", "slim-local/172.19.0.0/16"]


def test_a_pool_is_given_whatever_routes_there_are(kv: FakeKeyValue) -> None:
    """A bridge or macvlan network with slim's addresses needs a route to its pool."""
    on = service(kv, routed=[ip_network("10.32.0.0/24")])
    assert request(on) == "slim-local/10.32.0.0/24"


def test_simultaneous_automatic_pools_differ(kv: FakeKeyValue) -> None:
    given: list[str] = []
    hosts = [service(kv, n, prefixlen=30) for n in range(8)]
    run_all(lambda n: given.append(request(hosts[n], "")), range(8))
    assert len(set(given)) == 8


def test_unknown_pools_are_released(one: AddressService) -> None:
    for pool_id in ("", "x", "slim-local/10.9.0.0/16", "slim-local/10.9.0.5/16", "other/1/2",
                    "slim-local/10.9.0.0/16/10.9.1.0/24", "slim-local/999/1"):
        one.release_pool(pool_id)
        one.release_address(pool_id, "10.9.0.1")
    for pool_id in ("", "x", "slim-local/10.9.0.0/16"):
        with pytest.raises(NotFound):
            get(one, pool_id)


def test_pool_end_takes_left_overs_along(
        kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    pool_id = request(one)
    request(two)
    gateway(one, pool_id)
    forgotten = get(one, pool_id, **{"com.docker.network.endpoint.name": "web"})
    get(two, pool_id)
    one.release_pool(pool_id)
    assert get(two, pool_id, forgotten) == forgotten
    two.release_pool(pool_id)
    assert everything(kv) == []


# Addresses.

def test_an_address_outside_says_what_would_do(one: AddressService) -> None:
    pool_id = request(one)
    for address in ("10.49.0.1", "10.32.0.0", "10.32.0.255"):
        with pytest.raises(InvalidArgument, match=r"from 10\.32\.0\.1 to 10\.32\.0\.254"):
            get(one, pool_id, address)


def test_any_address_is_usable_and_unique(one: AddressService, two: AddressService) -> None:
    pool_id = request(one, "10.32.0.0/28")
    request(two, "10.32.0.0/28")
    assert gateway(one, pool_id) == "10.32.0.1/28"
    get(one, pool_id, "10.32.0.9")
    given = [get(on, pool_id) for on in (one, two) * 6]
    assert sorted(map(ip_address, given)) == [
        ip_address(f"10.32.0.{n}") for n in range(2, 15) if n != 9]
    for on in (one, two):
        with pytest.raises(Exhausted, match="no free address"):
            get(on, pool_id)
    two.release_address(pool_id, given[1])
    assert get(one, pool_id) == given[1]


def test_what_is_taken_is_read_for_one_request_of_many(kv: FakeKeyValue, one: AddressService,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    pool_id = request(one, "10.32.0.0/24")
    reads: list[str] = []
    read = kv.range
    monkeypatch.setattr(kv, "range", lambda *args, **more: (reads.append(args[0]),
                                                            read(*args, **more))[1])
    given = {get(one, pool_id) for _ in range(1 + SPARE)}
    assert (len(given), len(reads)) == (1 + SPARE, 1)


def test_what_others_took_since_it_was_read_is_not_given_again(
        kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    pool_id = request(one, "10.32.0.0/28")
    request(two, "10.32.0.0/28")
    first = get(one, pool_id)
    others = [get(two, pool_id) for _ in range(12)]
    assert get(one, pool_id) not in {first, *others}
    with pytest.raises(Exhausted):
        get(one, pool_id)


@pytest.mark.parametrize(("pool", "count"), [
    ("10.32.0.0/29", 6), ("10.32.0.0/30", 2), ("10.32.0.0/31", 2), ("fd00::/126", 3)])
def test_tiny_pools_are_used_up(one: AddressService, pool: str, count: int) -> None:
    pool_id = request(one, pool)
    assert len({get(one, pool_id) for _ in range(count)}) == count
    with pytest.raises(Exhausted):
        get(one, pool_id)


@pytest.mark.parametrize("pool", ["10.0.0.0/8", "fd00::/64", "fd00::/112"])
def test_huge_pools(one: AddressService, pool: str) -> None:
    pool_id = request(one, pool)
    assert len({get(one, pool_id) for _ in range(20)}) == 20


def test_the_last_free_address_of_a_large_pool(kv: FakeKeyValue, one: AddressService) -> None:
    pool_id = request(one, "10.32.0.0/22")
    given = {get(one, pool_id) for _ in range(1022)}
    assert len(given) == 1022
    with pytest.raises(Exhausted):
        get(one, pool_id)
    one.release_address(pool_id, "10.32.2.77")
    assert get(service(kv, 3), pool_id) == "10.32.2.77"


def test_gateway_is_shared(kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    local, everywhere = request(one), request(one, space=GLOBAL)
    request(two)
    assert {gateway(one, local), gateway(two, local), gateway(one, everywhere)} == {
        "10.32.0.1/24"}
    one.release_address(local, "10.32.0.1")
    one.release_address(everywhere, "10.32.0.1")
    with pytest.raises(Conflict, match="gateway"):
        get(one, local, "10.32.0.1")
    two.release_address(local, "10.32.0.1")
    assert gateway(one, local, "10.32.0.254") == "10.32.0.254/24"
    assert gateway(two, local) == "10.32.0.254/24"


def test_gateway_of_two_networks_on_one_host(one: AddressService) -> None:
    pool_id = request(one)
    assert gateway(one, pool_id) == "10.32.0.1/24"
    assert request(one) == pool_id
    assert gateway(one, pool_id) == "10.32.0.1/24"
    one.release_address(pool_id, "10.32.0.1")
    one.release_pool(pool_id)
    with pytest.raises(Conflict, match="gateway"):
        get(one, pool_id, "10.32.0.1")
    one.release_address(pool_id, "10.32.0.1")
    assert get(one, pool_id, "10.32.0.1") == "10.32.0.1"


def test_gateway_choice_steps_over_what_is_taken(one: AddressService) -> None:
    pool_id = request(one)
    for last in (1, 2, 4):
        get(one, pool_id, f"10.32.0.{last}")
    assert gateway(one, pool_id) == "10.32.0.3/24"


@pytest.mark.parametrize("address", [
    "10.32.0.0", "10.32.0.255", "10.33.0.1", "fd00::1", "10.32.0.5/24", "x"])
def test_addresses_that_cannot_be_had(one: AddressService, address: str) -> None:
    pool_id = request(one)
    with pytest.raises(InvalidArgument, match="address"):
        get(one, pool_id, address)


def test_aux_addresses_are_asked_for_by_each_host(
        one: AddressService, two: AddressService) -> None:
    pool_id = request(one)
    request(two)
    assert get(one, pool_id, "10.32.0.5") == get(two, pool_id, "10.32.0.5") == "10.32.0.5"
    one.release_address(pool_id, "10.32.0.5")
    assert "10.32.0.5" not in {get(one, pool_id) for _ in range(253)}


def test_address_of_a_live_endpoint(
        kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    pool_id = request(one)
    request(two)
    address = get(one, pool_id)
    with pytest.raises(Conflict, match="host"):
        get(two, pool_id, address)
    endpoints = live_endpoint(kv, 1, address)
    for on in (one, two):
        with pytest.raises(Conflict, match="belongs to endpoint eeeeeeeeeeee"):
            get(on, pool_id, address)
    # An early release does not free it; the endpoint's end does.
    one.release_address(pool_id, address)
    with pytest.raises(Conflict):
        get(two, pool_id, address)
    endpoints.delete(EndpointId("e" * 64))
    assert get(two, pool_id, address) == address


def test_swarm_worker_gets_what_the_manager_gave(
        kv: FakeKeyValue, one: AddressService, two: AddressService) -> None:
    everywhere = request(one, space=GLOBAL)
    task = get(one, everywhere)
    local = request(two)
    assert get(two, local, task) == task
    assert get(one, everywhere, task) == task
    live_endpoint(kv, 2, task)
    assert get(two, local, task) == task, "dockerd crashed, and asks again"
    assert get(one, everywhere, task) == task
    one.release_address(everywhere, task)
    assert get(one, everywhere) != task


@pytest.mark.parametrize("key", [
    "com.docker.network.endpoint.macaddress", "com.docker.network.endpoint.name"])
def test_repeated_request_of_one_owner(kv: FakeKeyValue, one: AddressService,
                                       two: AddressService, key: str) -> None:
    pool_id = request(one)
    request(two)
    address = get(one, pool_id, **{key: "web/1"})
    assert get(one, pool_id, **{key: "web/1"}) == address
    assert get(two, pool_id, **{key: "web/1"}) != address
    assert get(one, pool_id, **{key: "web/2"}) != address
    live_endpoint(kv, 1, address)
    other = get(one, pool_id, **{key: "web/1"})
    assert other != address, "a second network of the same pool"
    one.release_address(pool_id, address)
    assert get(one, pool_id, **{key: "web/1"}) == other
    one.release_address(pool_id, other)
    one.release_pool(pool_id)
    two.release_pool(pool_id)
    assert not [k for k in everything(kv) if k.startswith(keys.OWNERS)]


def test_release_is_idempotent(one: AddressService, two: AddressService) -> None:
    pool_id = request(one)
    address = get(one, pool_id)
    two.release_address(pool_id, address)
    with pytest.raises(Conflict):
        get(two, pool_id, address)
    one.release_address(pool_id, address)
    one.release_address(pool_id, address)
    assert get(two, pool_id, address) == address


def test_64_requests_at_once_from_four_hosts(kv: FakeKeyValue) -> None:
    hosts = [service(kv, n) for n in range(4)]
    pool_id, *_ = [request(on, "10.32.0.0/26") for on in hosts]
    given: list[str] = []
    run_all(lambda n: given.append(get(hosts[n % 4], pool_id)), range(62))
    assert len(set(given)) == 62


def run_all(work: object, arguments: range) -> None:
    threads = [threading.Thread(target=work, args=(n,))  # type: ignore[arg-type]
               for n in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_pool_that_holds_the_hosts_own_address_is_refused() -> None:
    kv = FakeKeyValue()
    addresses = service(kv, underlay=IPv4Address("192.0.2.7"))
    with pytest.raises(InvalidArgument, match=r"own address 192\.0\.2\.7"):
        addresses.request_pool("slim-local", "192.0.2.0/24", "", v6=False, options={})
    assert kv.range("/").entries == ()
    addresses.request_pool("slim-local", "192.0.3.0/24", "", v6=False, options={})
