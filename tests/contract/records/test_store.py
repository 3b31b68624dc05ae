"""Tests networks, endpoints, hosts and the directory over the fake and a real etcd."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from driver.errors import Conflict, Exhausted, NotFound, StoreUnavailable, UnsupportedRecord
from driver.model import Endpoint, EndpointId, Host, HostId, HostPath, NetworkId, NetworkKey, Vni
from driver.services.ports import Left, Said, Unreadable
from driver.store.endpoints import EtcdEndpoints
from driver.store.etcd.client import EtcdKeyValue
from driver.store.feeds.directory import EtcdDirectory
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.hosts.registry import EtcdHosts, HostFeed
from driver.store.kv.protocol import Delete, Put
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until
from tests.support.world.etcd import Etcd, live

Kv = FakeKeyValue | EtcdKeyValue

HOST_A, HOST_B = HostId("a" * 32), HostId("b" * 32)
NET_A, NET_B = NetworkId("1" * 64), NetworkId("2" * 64)
POOL = NetworkKey("pool:10.32.0.0/16")
SUBNETS = ("10.32.0.0/16",)


def create(networks: EtcdNetworks, network_id: NetworkId = NET_A, key: NetworkKey = POOL,
           subnets: tuple[str, ...] = SUBNETS) -> Vni:
    return networks.create(network_id, key, subnets=subnets, internal=False, mtu=0).vni


def endpoint(networks: EtcdNetworks, number: int = 1, *, network_id: NetworkId = NET_A,
             host: HostId = HOST_A, ip: str = "10.32.0.2/16", **others: object) -> Endpoint:
    network = networks.get(network_id)
    assert network is not None
    made = Endpoint(
        id=EndpointId(f"{number:064}"), network_id=network_id, vni=network.vni, host=host,
        underlay=IPv4Address("192.0.2.1"), mac=b"\x02\x42\x0a\x20\x00\x02",
        address=IPv4Interface(ip), address6=None, port=61000)
    return replace(made, **others)  # type: ignore[arg-type]


def everything(kv: Kv) -> list[str]:
    """Return all keys but tombstones, which end by themselves."""
    return [entry.key for entry in live(kv.range(keys.ROOT).entries)]


def test_network_twice_is_the_same(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    first = networks.create(NET_A, POOL, subnets=SUBNETS, internal=True, mtu=1400)
    assert networks.create(NET_A, POOL, subnets=SUBNETS, internal=True, mtu=1400) == first
    with pytest.raises(Conflict, match="other values"):
        networks.create(NET_A, POOL, subnets=("10.33.0.0/16",), internal=True, mtu=1400)
    assert networks.get(NET_A) == first
    assert EtcdNetworks(kv, HOST_A).list() == [first]
    assert EtcdNetworks(kv, HOST_B).list() == []


def test_a_network_keeps_what_was_chosen_for_its_host_path(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    made = networks.create(NET_A, POOL, subnets=SUBNETS, internal=False, mtu=0,
                           host_path=HostPath.OFF)
    assert EtcdNetworks(kv, HOST_A).list() == [made]
    with pytest.raises(Conflict, match="other values"):
        networks.create(NET_A, POOL, subnets=SUBNETS, internal=False, mtu=0)


def test_a_port_that_is_not_offered_stays_the_endpoints_own(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    made = endpoint(networks, offered=False, host_path=HostPath.OFF)
    endpoints = EtcdEndpoints(kv, HOST_A, networks)
    endpoints.create(made)
    assert EtcdEndpoints(kv, HOST_A, networks).list() == [made]
    assert [entry.value.count(b'"port":0') for entry in kv.range(keys.ENDPOINTS).entries] == [1]
    endpoints.replace(replace(made, offered=True))
    assert [entry.value.count(b'"port":61000')
            for entry in kv.range(keys.ENDPOINTS).entries] == [1]


def test_records_of_before_the_choice_read_well(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    made = endpoint(networks)
    EtcdEndpoints(kv, HOST_A, networks).create(made)
    for key in (keys.local_network(HOST_A, NET_A), keys.local_endpoint(HOST_A, made.id)):
        entry = kv.get(key)
        assert entry is not None
        fields = {name: value for name, value in json.loads(entry.value).items()
                  if name not in ("host_path", "offered")}
        kv.commit([], [Put(key, json.dumps(fields).encode())])
    fresh = EtcdNetworks(kv, HOST_A)
    assert fresh.list()[0].host_path is HostPath.AUTO
    assert EtcdEndpoints(kv, HOST_A, fresh).list() == [made]


def test_one_pool_is_one_network_and_the_last_host_frees_it(kv: Kv) -> None:
    a, b = EtcdNetworks(kv, HOST_A), EtcdNetworks(kv, HOST_B)
    vni = create(a)
    assert create(b, NET_B) == vni
    assert create(a, NetworkId("3" * 64)) == vni
    assert create(a, NetworkId("4" * 64), NetworkKey("id:x")) != vni
    a.delete(NetworkId("4" * 64))
    a.delete(NET_A)
    b.delete(NET_B)
    assert create(EtcdNetworks(kv, HOST_B), NET_B) == vni
    b.delete(NET_B)
    a.delete(NetworkId("3" * 64))
    a.delete(NET_A)
    assert everything(kv) == []
    assert a.list() == []


def test_vnis_are_unique_and_run_out(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A, vnis=range(5, 8))
    ids = [NetworkId(f"{n:064}") for n in range(3)]
    assert {create(networks, i, NetworkKey(f"id:{i}")) for i in ids} == {5, 6, 7}
    with pytest.raises(Exhausted):
        create(networks, NET_A, NetworkKey("id:x"))
    networks.delete(ids[1])
    assert create(networks, NET_A, NetworkKey("id:x")) in (5, 6, 7)


def test_hosts_create_the_same_network_at_once(kv: Kv) -> None:
    made: list[Vni] = []
    threads = [threading.Thread(target=lambda h=host: made.append(
        create(EtcdNetworks(kv, HostId(f"{h:032}"))))) for host in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_records_of_another_schema_are_left_alone(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    key = keys.local_network(HOST_A, NET_B)
    kv.commit([], [Put(key, b'{"schema": 2, "id": "x"}')])
    with pytest.raises(UnsupportedRecord, match="schema 2"):
        create(networks, NET_B)
    with pytest.raises(UnsupportedRecord):
        networks.delete(NET_B)
    assert [n.id for n in EtcdNetworks(kv, HOST_A).list()] == [NET_A]
    entry = kv.get(key)
    assert entry is not None
    assert entry.value == b'{"schema": 2, "id": "x"}'


@pytest.mark.parametrize("value", [
    b"", b"null", b"[]", b"{}", b'{"schema":1}', b'{"schema":true,"id":"x"}', b'{"schema":"1"}',
    b'{"schema":1,"id":1,"key":"k","vni":1,"subnets":[],"internal":false,"mtu":0}', b"\xff"])
def test_damaged_records_are_refused(value: bytes) -> None:
    kv = FakeKeyValue()
    kv.commit([], [Put(keys.local_network(HOST_A, NET_A), value)])
    with pytest.raises(UnsupportedRecord):
        create(EtcdNetworks(kv, HOST_A))


def test_endpoint_life(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    endpoints = EtcdEndpoints(kv, HOST_A, networks)
    one = endpoint(networks, address6=IPv6Interface("fd00::2/64"))
    endpoints.create(one)
    endpoints.create(one)
    with pytest.raises(Conflict, match="other values"):
        endpoints.create(replace(one, port=61001))
    joined = replace(one, sandbox_key="/var/run/docker/netns/1")
    endpoints.replace(joined)
    assert endpoints.get(one.id) == joined
    assert EtcdEndpoints(kv, HOST_A, networks).list() == [joined]
    assert EtcdEndpoints(kv, HOST_B, networks).list() == []
    endpoints.delete(one.id)
    endpoints.delete(one.id)
    assert endpoints.get(one.id) is None
    with pytest.raises(NotFound):
        endpoints.replace(one)
    # Nobody requested its addresses, so this host holds them until ReleaseAddress.
    assert [k for k in everything(kv) if "/endpoints/" in k] == []


def test_address_belongs_to_one_live_endpoint(kv: Kv) -> None:
    a, b = EtcdNetworks(kv, HOST_A), EtcdNetworks(kv, HOST_B)
    create(a)
    create(b, NET_B)
    on_a, on_b = EtcdEndpoints(kv, HOST_A, a), EtcdEndpoints(kv, HOST_B, b)
    one = endpoint(a)
    two = endpoint(b, 2, network_id=NET_B, host=HOST_B)
    on_a.create(one)
    with pytest.raises(Conflict, match=r"10\.32\.0\.2"):
        on_b.create(two)
    assert on_b.list() == []
    on_a.delete(one.id)
    on_b.create(two)


def test_prefix_length_does_not_make_another_address(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    endpoints = EtcdEndpoints(kv, HOST_A, networks)
    endpoints.create(endpoint(networks))
    with pytest.raises(Conflict, match="belongs"):
        endpoints.create(endpoint(networks, 2, ip="10.32.0.2/32"))
    endpoints.delete(endpoint(networks).id)
    endpoints.create(endpoint(networks, 2, ip="10.32.0.2/32"))


def test_no_reservations_without_our_pool(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks, NET_A, NetworkKey("id:x"))
    endpoints = EtcdEndpoints(kv, HOST_A, networks)
    endpoints.create(endpoint(networks))
    assert not [k for k in everything(kv) if k.startswith(keys.ADDRESSES)]


def test_endpoint_needs_its_network(kv: Kv) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    create(networks)
    one = endpoint(networks)
    networks.delete(NET_A)
    with pytest.raises(NotFound):
        EtcdEndpoints(kv, HOST_A, networks).create(one)
    assert everything(kv) == []


class Heard:
    """A DirectoryListener that keeps the set that a network's feed describes."""

    def __init__(self) -> None:
        self.endpoints: dict[EndpointId, Endpoint] = {}
        self.snapshots = 0
        self.gone: list[EndpointId] = []
        self.bad: list[EndpointId] = []
        self.lost: list[tuple[EndpointId, int]] = []

    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        assert revision > 0
        said = list(said)
        self.endpoints = {one.id: one for one in said if isinstance(one, Endpoint)}
        self.gone = [one.endpoint.id for one in said if isinstance(one, Left)]
        self.bad = [one.endpoint_id for one in said if isinstance(one, Unreadable)]
        self.snapshots += 1

    def put(self, one: Endpoint) -> None:
        self.endpoints[one.id] = one

    def left(self, vni: Vni, one: Endpoint) -> None:
        del self.endpoints[one.id]
        self.gone.append(one.id)

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        self.lost.append((endpoint_id, revision))

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        self.bad.append(endpoint_id)

    def unfollowed(self, vni: Vni) -> None:
        self.endpoints.clear()


def test_directory_follows_one_network(kv: Kv, feeds: Feeds) -> None:
    networks = EtcdNetworks(kv, HOST_A)
    vni = create(networks)
    create(networks, NET_B, NetworkKey("id:x"))
    endpoints = EtcdEndpoints(kv, HOST_A, networks)
    one, two = endpoint(networks), endpoint(networks, 2, ip="10.32.0.3/16")
    endpoints.create(one)
    heard = Heard()
    directory = EtcdDirectory(feeds, kv)
    directory.follow(vni, heard)
    directory.follow(vni, heard)
    wait_until(lambda: set(heard.endpoints) == {one.id}, 30, "the snapshot")
    endpoints.create(two)
    endpoints.create(endpoint(networks, 3, network_id=NET_B))
    wait_until(lambda: heard.endpoints == {one.id: one, two.id: two}, 30, "the second endpoint")
    kv.commit([], [Put(keys.endpoint(vni, EndpointId("bad")), b'{"schema":9}')])
    endpoints.delete(one.id)
    wait_until(lambda: set(heard.endpoints) == {two.id}, 30, "the first one's end")
    assert heard.snapshots == 1
    directory.unfollow(vni)
    directory.unfollow(vni)
    assert heard.endpoints == {}
    directory.close()
    kv.commit([], [Delete(keys.endpoint(vni, EndpointId("bad")))])


def test_directory_goes_on_when_the_stream_is_lost() -> None:
    kv = FakeKeyValue()
    feeds = Feeds(kv)
    networks = EtcdNetworks(kv, HOST_A)
    vni = create(networks)
    endpoints = EtcdEndpoints(kv, HOST_A, networks)
    heard = Heard()
    directory = EtcdDirectory(feeds, kv)
    directory.follow(vni, heard)
    wait_until(lambda: heard.snapshots == 1, 30, "the first snapshot")
    kv.store.break_streams()
    endpoints.create(endpoint(networks))
    wait_until(lambda: len(heard.endpoints) == 1, 30, "the change that came meanwhile")
    assert heard.snapshots == 1
    feeds.close()


def test_directory_survives_an_etcd_outage_and_compaction(own_etcd: Etcd) -> None:
    with EtcdKeyValue(own_etcd.settings()) as kv:
        networks = EtcdNetworks(kv, HOST_A)
        vni = create(networks)
        endpoints = EtcdEndpoints(kv, HOST_A, networks)
        heard = Heard()
        feeds = Feeds(kv)
        directory = EtcdDirectory(feeds, kv)
        directory.follow(vni, heard)
        endpoints.create(endpoint(networks))
        wait_until(lambda: len(heard.endpoints) == 1, 30, "the first endpoint")
        assert len(endpoints.list()) == 1
        own_etcd.stop()
        assert networks.get(NET_A) is not None, "reads need no etcd"
        assert len(endpoints.list()) == 1
        with pytest.raises(StoreUnavailable):
            endpoints.create(endpoint(networks, 2, ip="10.32.0.3/16"))
        own_etcd.start()
        wait_until(lambda: answers(kv), 30, "the client is connected again")
        endpoints.create(endpoint(networks, 2, ip="10.32.0.3/16"))
        kv.compact(kv.range(keys.ROOT).revision)
        wait_until(lambda: len(heard.endpoints) == 2, 30, "the second endpoint")
        feeds.close()


def answers(kv: EtcdKeyValue) -> bool:
    try:
        kv.count(keys.ROOT)
    except StoreUnavailable:
        return False
    return True


def test_hosts_come_and_go(kv: Kv, feeds: Feeds) -> None:
    hosts = EtcdHosts(kv, ttl_s=2)
    live: list[dict[HostId, Host]] = []
    feeds.follow(keys.HOSTS, HostFeed(live.append))
    one = Host(HOST_A, "one", IPv4Address("192.0.2.1"))
    two = Host(HOST_B, "two", IPv4Address("192.0.2.2"))
    hosts.register(one)
    hosts.register(two)
    wait_until(lambda: live and live[-1] == {HOST_A: one, HOST_B: two}, 30, "both hosts")
    hosts.unregister(HOST_B)
    wait_until(lambda: live[-1] == {HOST_A: one}, 30, "the second one's end")
    hosts.unregister(HOST_B)
    kv.commit([], [Delete(keys.host(HOST_A))])
    wait_until(lambda: live[-1] == {}, 30, "the record's loss")
    wait_until(lambda: live[-1] == {HOST_A: one}, 30, "its return")
    hosts.close()
    assert kv.get(keys.host(HOST_A)) is None
