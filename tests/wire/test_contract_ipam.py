"""Tests the contract's rows on IPAM, with the real service and an etcd in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface, IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

import pytest

from driver.ipam.pools import Supernet
from driver.model import Endpoint, EndpointId, HostId, NetworkId, NetworkKey
from driver.services.addresses.service import AddressService
from driver.store.address_book import EtcdAddressBook
from driver.store.endpoints import EtcdEndpoints
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kv import FakeKeyValue, FakeStore
from tests.support.fakes.ports import HOST
from tests.support.world.client import Dockerd

GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}
SUBNET = "10.50.0.0/16"


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def service(store: FakeStore, host: HostId = HOST.id) -> AddressService:
    return AddressService(
        EtcdAddressBook(FakeKeyValue(store)), host,
        supernets=(Supernet(IPv4Network("10.200.0.0/22"), 24),
                   Supernet(IPv6Network("fd51:1d::/62"), 64)), routed=tuple)


@pytest.fixture
def addresses(store: FakeStore) -> AddressService:
    return service(store)


def pool(dockerd: Dockerd, cidr: str = SUBNET, sub_pool: str = "", space: str = "slim-local",
         **more: object) -> str:
    return dockerd.ok("IpamDriver.RequestPool", **{
        "AddressSpace": space, "Pool": cidr, "SubPool": sub_pool, "Options": None,
        "V6": ":" in cidr, **more})["PoolID"]


def request(dockerd: Dockerd, pool_id: str, address: str = "", options: object = None) -> str:
    return dockerd.ok("IpamDriver.RequestAddress", PoolID=pool_id, Address=address,
                      Options=options)["Address"]


def refused(dockerd: Dockerd, method: str, **fields: object) -> str:
    reply = dockerd.call(f"IpamDriver.{method}", **fields)
    assert reply.status == 200
    assert reply.error, reply
    return reply.error


def test_row_07_ipam_twice(dockerd: Dockerd, store: FakeStore) -> None:
    pool_id = pool(dockerd)
    request(dockerd, pool_id, "10.50.0.9")
    for method, fields in (("ReleaseAddress", {"PoolID": pool_id, "Address": "10.50.0.9"}),
                           ("ReleasePool", {"PoolID": pool_id})):
        assert dockerd.ok(f"IpamDriver.{method}", **fields) == {}
        state = {key: entry.value for key, (entry, _) in store.entries.items()}
        assert dockerd.ok(f"IpamDriver.{method}", **fields) == {}
        assert {key: entry.value for key, (entry, _) in store.entries.items()} == state


def test_row_30_same_pool_twice_release_once(dockerd: Dockerd) -> None:
    first = pool(dockerd)
    assert pool(dockerd) == first
    request(dockerd, first, "10.50.0.9")
    dockerd.ok("IpamDriver.ReleasePool", PoolID=first)
    assert request(dockerd, first, "10.50.0.10") == "10.50.0.10/16"


def test_row_31_two_spaces(dockerd: Dockerd) -> None:
    local, swarm = pool(dockerd), pool(dockerd, space="slim-global")
    assert local != swarm
    dockerd.ok("IpamDriver.ReleasePool", PoolID=local)
    assert request(dockerd, swarm).endswith("/16")


def test_row_32_automatic_pools_never_repeat(dockerd: Dockerd) -> None:
    given = [dockerd.ok("IpamDriver.RequestPool", AddressSpace="slim-local", Pool="", SubPool="",
                        Options=None, V6=False)["Pool"] for _ in range(4)]
    assert len(set(given)) == 4
    assert all(ip_network(cidr).subnet_of(IPv4Network("10.200.0.0/22")) for cidr in given)
    refused(dockerd, "RequestPool", AddressSpace="slim-local", Pool="", SubPool="", V6=False)


def test_row_33_shapes_of_pools(dockerd: Dockerd) -> None:
    answer = dockerd.ok("IpamDriver.RequestPool", AddressSpace="slim-local", Pool="", SubPool="",
                        Options=None, V6=True)
    assert ip_network(answer["Pool"]).version == 6
    # A swarm manager always says V6 false.
    answer = dockerd.ok("IpamDriver.RequestPool", AddressSpace="slim-global", V6=False, SubPool="",
                        Pool="fd00:50::/64", Options={"com.docker.network.ipam.serial": "true"})
    assert answer["Pool"] == "fd00:50::/64"
    refused(dockerd, "RequestPool", AddressSpace="slim-local", Pool=SUBNET,
            SubPool="10.51.0.0/24", V6=False)
    refused(dockerd, "RequestPool", AddressSpace="slim-local", Pool="", SubPool="10.51.0.0/24",
            V6=False)
    refused(dockerd, "RequestPool", AddressSpace="default", Pool=SUBNET, V6=False)
    refused(dockerd, "RequestPool", AddressSpace="slim-local", Pool="10.50.0.0/40", V6=False)


@pytest.mark.parametrize("asked", ["10.50.0.0/16", "10.50.7.9/16"])
def test_row_34_pool_in_network_form(dockerd: Dockerd, asked: str) -> None:
    reply = dockerd.call("IpamDriver.RequestPool", AddressSpace="slim-local", Pool=asked,
                         SubPool="10.50.4.0/24", Options=None, V6=False)
    assert reply.error or reply.json["Pool"] == "10.50.0.0/16"
    assert reply.json.get("Pool") == "10.50.0.0/16" or asked != "10.50.0.0/16"


def test_row_35_any_address(dockerd: Dockerd) -> None:
    pool_id = pool(dockerd, "10.60.0.0/24", "10.60.0.0/29")
    gateway = request(dockerd, pool_id, "10.60.0.1", GATEWAY)
    aux = request(dockerd, pool_id, "10.60.0.2")
    given = [request(dockerd, pool_id) for _ in range(5)]
    assert len({*given, gateway, aux}) == 7
    for text in given:
        assert ip_interface(text).network == IPv4Network("10.60.0.0/24")
        assert ip_interface(text).ip in IPv4Network("10.60.0.0/29")
        assert ip_interface(text).ip not in (ip_address("10.60.0.0"), ip_address("10.60.0.255"))


def test_row_36_gateways_and_aux_outside_the_sub_pool(dockerd: Dockerd) -> None:
    pool_id = pool(dockerd, SUBNET, "10.50.4.0/24")
    assert request(dockerd, pool_id, "10.50.0.254", GATEWAY) == "10.50.0.254/16"
    assert request(dockerd, pool_id, "10.50.200.1") == "10.50.200.1/16"
    other = pool(dockerd, "10.61.0.0/16")
    gateway = ip_interface(request(dockerd, other, "", GATEWAY))
    assert gateway.ip in IPv4Network("10.61.0.0/16")


def test_row_37_exact_address_of_a_swarm_task(dockerd: Dockerd) -> None:
    swarm, local = pool(dockerd, space="slim-global"), pool(dockerd)
    task = request(dockerd, swarm)
    address = task.partition("/")[0]
    assert request(dockerd, swarm, address) == task  # the new leader's replay
    assert request(dockerd, local, address) == task  # the worker's
    assert request(dockerd, local, address) == task
    dockerd.ok("IpamDriver.ReleaseAddress", PoolID=local, Address=address)
    others = {request(dockerd, local) for _ in range(8)}
    assert task not in others  # the manager still holds it


@pytest.mark.parametrize("host", [HOST.id, HostId("b" * 32)])
def test_row_38_exact_address_of_a_live_endpoint(dockerd: Dockerd, store: FakeStore,
                                                 host: HostId) -> None:
    pool_id = pool(dockerd)
    there = service(store, host)
    there.request_pool("slim-local", SUBNET, "", v6=False, options={})
    address = there.request_address(pool_id, "10.50.0.77", options={})
    networks = EtcdNetworks(FakeKeyValue(store), host)
    network = networks.create(NetworkId("1" * 64), NetworkKey(f"pool:{SUBNET}"), subnets=(SUBNET,),
                              internal=False, mtu=0)
    EtcdEndpoints(FakeKeyValue(store), host, networks).create(Endpoint(
        EndpointId("2" * 64), network.id, network.vni, host, HOST.underlay, bytes(6),
        IPv4Interface(str(address)), None, 61000))
    assert "10.50.0.77" in refused(dockerd, "RequestAddress", PoolID=pool_id, Address="10.50.0.77",
                                   Options=None)


def test_row_39_exhausted(dockerd: Dockerd, store: FakeStore) -> None:
    pool_id = pool(dockerd, "10.60.0.0/30")
    request(dockerd, pool_id)
    request(dockerd, pool_id)
    before = {key: entry.value for key, (entry, _) in store.entries.items()}
    assert "10.60.0.0/30" in refused(dockerd, "RequestAddress", PoolID=pool_id, Address="")
    assert {key: entry.value for key, (entry, _) in store.entries.items()} == before


def test_row_40_releases_of_the_unknown(dockerd: Dockerd) -> None:
    dockerd.ok("IpamDriver.ReleasePool", PoolID="slim-local/10.99.0.0/16")
    dockerd.ok("IpamDriver.ReleasePool", PoolID="nonsense")
    dockerd.ok("IpamDriver.ReleaseAddress", PoolID="nonsense", Address="10.50.0.9")
    pool_id = pool(dockerd)
    dockerd.ok("IpamDriver.ReleaseAddress", PoolID=pool_id, Address="10.50.0.9")
    dockerd.ok("IpamDriver.ReleaseAddress", PoolID=pool_id, Address="192.168.0.1")
    address = request(dockerd, pool_id).partition("/")[0]
    dockerd.ok("IpamDriver.ReleasePool", PoolID=pool_id)
    dockerd.ok("IpamDriver.ReleaseAddress", PoolID=pool_id, Address=address)


def test_row_41_parallel_requests(dockerd: Dockerd) -> None:
    pool_id = pool(dockerd)
    with ThreadPoolExecutor(16) as threads:
        given = list(threads.map(lambda _: request(dockerd, pool_id), range(64)))
    assert len(set(given)) == 64


@pytest.mark.parametrize("key", ["com.docker.network.endpoint.macaddress",
                                 "com.docker.network.endpoint.name"])
def test_row_42_retried_request(dockerd: Dockerd, key: str) -> None:
    pool_id = pool(dockerd)
    options = {key: "02:42:00:00:00:07"}
    first = request(dockerd, pool_id, "", options)
    assert request(dockerd, pool_id, "", options) == first
    assert request(dockerd, pool_id) != first


def test_rule_06_ipam_without_store(dockerd: Dockerd, store: FakeStore) -> None:
    pool_id = pool(dockerd)
    store.away = True
    assert dockerd.raw("IpamDriver.GetDefaultAddressSpaces", b"").status == 200
    assert dockerd.raw("IpamDriver.GetCapabilities", b"").status == 200
    for method, fields in (
            ("RequestPool", {"AddressSpace": "slim-local", "Pool": "10.62.0.0/16"}),
            ("RequestAddress", {"PoolID": pool_id}), ("ReleasePool", {"PoolID": pool_id}),
            ("ReleaseAddress", {"PoolID": pool_id, "Address": "10.50.0.9"})):
        refused(dockerd, method, **fields)


def test_networks_of_two_hosts_share_a_key(store: FakeStore) -> None:
    """The address space in CreateNetwork makes one pool one virtual network."""
    from driver.services.networks.lifecycle import NetworkPool, network_key

    pools = [NetworkPool("slim-local", ip_network(SUBNET))]
    vnis = set()
    for host in ("a", "b"):
        networks = EtcdNetworks(FakeKeyValue(store), HostId(host * 32))
        key = network_key(host * 64, pools)  # type: ignore[arg-type]
        vnis.add(networks.create(host * 64, key, subnets=(SUBNET,), internal=False,  # type: ignore[arg-type]
                                 mtu=0).vni)
    assert len(vnis) == 1
