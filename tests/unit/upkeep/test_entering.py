"""Tests entering again what etcd has lost of this host's own, without cutting what runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.compose.parts.removal import remove_records
from driver.errors import Conflict, StoreUnavailable
from driver.model import (
    SWARM_ID_LENGTH,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    Removal,
)
from driver.services.addresses.service import NAME
from driver.services.upkeep.comeback import give_up_everything
from driver.store.endpoints import EtcdEndpoints
from driver.store.format import keys, records
from driver.store.hosts.absences import EtcdAbsences
from driver.store.kv.protocol import Delete, Put
from driver.store.networks import EtcdNetworks
from tests.support.fakes.kernel import KernelMaps
from tests.support.fakes.kv import FakeKeyValue
from tests.support.faults.calls import Net
from tests.support.world.addressing import host_id, service
from tests.support.world.whole import ME, SPACE, Whole

NET = Net()
SECOND = Net(2)


@pytest.fixture
def whole() -> Whole:
    """A host with two containers, each on its own network."""
    made = Whole()
    made.recover()
    for net in (NET, SECOND):
        for call in (net.request_pool(), net.request_gateway(), net.create_network(),
                     net.request_address(), net.create_endpoint(), net.join(), net.come_up()):
            call.act(made)
            call.believes(made)
            made.settle()
    return made


def wipe(whole: Whole, *names: str) -> None:
    """Delete keys unnoticed; all keys if none is named."""
    kv = FakeKeyValue(whole.store)
    chosen = [key for key in whole.store.entries if not names or key in names]
    assert chosen
    for key in chosen:
        kv.commit([], [Delete(key)])


def put(whole: Whole, key: str, value: bytes) -> None:
    FakeKeyValue(whole.store).commit([], [Put(key, value)])


def everything_but_etcd(whole: Whole) -> dict[str, object]:
    return {name: value for name, value in whole.view().items() if name != "etcd"}


def key_of(whole: Whole, part: str, net: Net = NET) -> str:
    return {
        "local network": keys.local_network(ME.id, net.id),
        "local endpoint": keys.local_endpoint(ME.id, net.endpoint),
        "shared endpoint": keys.endpoint(whole.own_networks.list()[0].vni, net.endpoint),
        "address": keys.address(net.pool, net.address),
        "subnet": keys.subnet(net.pool),
        "network": keys.network(whole.own_networks.list()[0].key),
        "vni": keys.vni(whole.own_networks.list()[0].vni)}[part]


PARTS = ["local network", "local endpoint", "shared endpoint", "address", "subnet", "network",
         "vni"]


def restarted(whole: Whole) -> None:
    whole.reboot()
    whole.recover()


@pytest.mark.parametrize("again", [lambda _whole: None, restarted],
                         ids=["the driver runs", "before its start"])
def test_a_wiped_etcd_is_filled_again(whole: Whole, again: Callable[[Whole], None]) -> None:
    before = whole.view()
    wipe(whole)
    again(whole)
    assert whole.kernel.links  # nothing is cut before it is entered again
    whole.entering.run()
    whole.settle()
    assert whole.difference(before) == ""
    whole.collect()
    assert whole.difference(before) == ""


@pytest.mark.parametrize("again", [lambda _whole: None, restarted],
                         ids=["the driver runs", "before its start"])
@pytest.mark.parametrize("part", PARTS)
def test_a_deleted_key_is_entered_again(whole: Whole, part: str,
                                        again: Callable[[Whole], None]) -> None:
    before = whole.view()
    wipe(whole, key_of(whole, part))
    again(whole)
    whole.entering.run()
    whole.settle()
    assert whole.difference(before) == ""


def test_who_asked_for_an_address_is_entered_again(whole: Whole) -> None:
    address = whole.addresses.request_address(f"{SPACE}/{NET.pool}", "", options={NAME: "web"})
    owner = keys.owner(NET.pool, ME.id, "web")
    before = whole.view()
    for gone in ([owner], [keys.address(NET.pool, address.ip), owner], []):
        wipe(whole, *gone)
        whole.entering.run()
        assert owner in whole.store.entries
        whole.settle()
        assert whole.difference(before) == ""
    again = whole.addresses.request_address(f"{SPACE}/{NET.pool}", "", options={NAME: "web"})
    assert again == address


def test_what_cannot_be_read_is_in_the_way_of_nothing_else(whole: Whole) -> None:
    broken, lost = keys.address(NET.pool, NET.address), keys.address(SECOND.pool, SECOND.address)
    put(whole, broken, b"garbage")
    wipe(whole, lost)
    assert not whole.entering.run()
    assert lost in whole.store.entries


@pytest.mark.parametrize("value", [b"garbage", b'{"schema":2,"write":"x"}', b""],
                         ids=["garbage", "newer schema", "empty"])
@pytest.mark.parametrize("part", PARTS)
def test_what_cannot_be_read_is_left_alone_and_named(whole: Whole, part: str, value: bytes) -> None:
    before = everything_but_etcd(whole)
    key = key_of(whole, part)
    right = whole.store.entries[key][0].value
    put(whole, key, value)
    restarted(whole)
    whole.settle()
    assert everything_but_etcd(whole) == before  # its port, too, which no other endpoint gets
    assert whole.store.entries[key][0].value == value
    assert "IN DOUBT" in whole.entering.describe()
    put(whole, key, right)
    assert whole.entering.run()
    assert "IN DOUBT" not in whole.entering.describe()


def test_a_network_that_is_deleted_meanwhile_stays_deleted(
        whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after the list of records has been read, which still has it."""
    third = Net(3)
    for call in (third.request_pool(), third.request_gateway(), third.create_network()):
        call.act(whole)
    read = whole.own_networks.on_record

    def read_and_delete() -> Sequence[Network]:
        found = read()
        monkeypatch.setattr(whole.own_networks, "on_record", read)
        whole.networks.delete_network(third.id)
        return found

    monkeypatch.setattr(whole.own_networks, "on_record", read_and_delete)
    whole.entering.run()
    assert third.id not in {network.id for network in whole.own_networks.list()}
    assert third.id not in {network.id for network in read()}


def test_without_etcd_a_new_driver_takes_over_what_runs(whole: Whole) -> None:
    before = everything_but_etcd(whole)
    whole.store.away = True
    restarted(whole)
    whole.ledger.run()
    after = everything_but_etcd(whole)
    assert {name: after[name] for name in before if "directory" not in name} == {
        name: before[name] for name in before if "directory" not in name}
    with pytest.raises(StoreUnavailable):
        whole.entering.run()
    whole.store.away = False
    whole.settle()
    assert everything_but_etcd(whole) == before


def test_older_values_are_brought_up_to_date(whole: Whole) -> None:
    before = whole.view()
    wrong = whole.own_endpoints.list()[0]
    for fields, key in ((records.local_endpoint_fields, "local endpoint"),
                        (records.shared_endpoint_fields, "shared endpoint")):
        old = {**fields(wrong), "underlay": "192.0.2.7", "port": 61077}
        put(whole, key_of(whole, key), records.encode(old))
    restarted(whole)
    whole.settle()
    assert whole.difference(before) == ""


def test_an_endpoint_that_comes_back_with_old_data_is_deleted(whole: Whole) -> None:
    """A restored snapshot still has it; its port may now be another endpoint's."""
    local, shared = key_of(whole, "local endpoint"), key_of(whole, "shared endpoint")
    old = {key: whole.store.entries[key][0].value for key in (local, shared)}
    for call in (NET.leave(), NET.delete_endpoint()):
        call.act(whole)
        whole.settle()
    before = whole.view()
    for key, value in old.items():
        put(whole, key, value)
    whole.entering.run()
    whole.settle()
    assert whole.difference(before) == ""


def test_lost_notes_are_noted_again(whole: Whole) -> None:
    before = whole.view()
    for notes in whole.kernel.notes.values():
        notes.clear()
    whole.kernel.complete.clear()
    restarted(whole)
    whole.entering.run()
    whole.settle()
    assert whole.difference(before) == ""


def test_with_notes_and_etcd_lost_what_runs_is_kept_and_named(whole: Whole) -> None:
    before = everything_but_etcd(whole)
    for notes in whole.kernel.notes.values():
        notes.clear()
    wipe(whole)
    restarted(whole)
    whole.settle()
    for name in ("links", "veths", "endpoints", "sandboxes", "rules"):
        assert everything_but_etcd(whole)[name] == before[name]
    assert f"link {NET.link}" in whole.recovery.state()
    assert whole.ports.request(EndpointId("f" * 64)) not in KernelMaps(whole.kernel).owned_ports()
    for net in (NET, SECOND):  # when the containers end, all of this ends, too
        whole.kernel.end_namespace(net.key)
    assert whole.recovery.attempt()
    for name in ("links", "veths", "sandboxes"):
        assert not everything_but_etcd(whole)[name]


def take_address(kv: FakeKeyValue) -> None:
    """Have another host's container take the address."""
    other = host_id(9)
    addresses = service(kv, 9)
    pool = addresses.request_pool("slim-local", NET.pool, "", v6=False, options={})
    addresses.request_address(pool.pool_id, str(NET.address), options={})
    networks = EtcdNetworks(kv, other)
    mine = EtcdNetworks(kv, ME.id).list()[0]
    network = networks.create(NetworkId("f" * 64), mine.key, subnets=mine.subnets,
                              internal=False, mtu=0)
    EtcdEndpoints(kv, other, networks).create(Endpoint(
        id=EndpointId("f" * 64), network_id=network.id, vni=network.vni, host=other,
        underlay=IPv4Address("192.0.2.99"), mac=bytes(6),
        address=IPv4Interface((NET.address, 24)), address6=None, port=61000))


def removed(whole: Whole, removal: Removal) -> FakeKeyValue:
    """Have others remove this host's records."""
    kv = FakeKeyValue(whole.store)
    absence = EtcdAbsences(kv).begin(ME.id, None, removal)
    assert absence is not None
    remove_records(kv, absence)
    assert kv.count(keys.local_endpoints(ME.id)) == 0
    whole.settle()
    return kv


def test_what_others_have_removed_and_runs_is_on_record_again(whole: Whole) -> None:
    before = whole.view()
    removed(whole, Removal.ADDRESSES)
    assert whole.entering.run()
    whole.settle()
    assert everything_but_etcd(whole) == {n: v for n, v in before.items() if n != "etcd"}
    for call in (NET.leave(), NET.delete_endpoint()):  # they can be removed as usual
        call.act(whole)
        whole.settle()
    assert NET.link not in whole.kernel.links


def test_who_has_lost_its_address_runs_on_and_is_named(whole: Whole) -> None:
    take_address(removed(whole, Removal.ADDRESSES))
    assert not whole.entering.run()
    whole.settle()
    assert NET.link in whole.kernel.links
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is not None
    assert f"address {NET.address} belongs to endpoint ffffffffffff" in whole.entering.describe()
    for call in (NET.leave(), NET.delete_endpoint()):  # Docker's removals succeed
        call.act(whole)
        whole.settle()
    with pytest.raises(Conflict, match="belongs to endpoint"):
        NET.create_endpoint().act(whole)
    assert whole.entering.run()


def test_who_was_forgotten_by_a_person_keeps_nothing(whole: Whole) -> None:
    removed(whole, Removal.EVERYTHING)
    give_up_everything(whole.own_networks, whole.own_endpoints, whole.endpoints, whole.networks,
                       whole.addresses)
    whole.settle()
    assert not whole.kernel.links
    assert whole.own_networks.list() == []
    assert not any(whole.kernel.notes.values())
    assert whole.publisher.directory_size() == 0
    assert whole.ports.in_use() == 0
    whole.entering.run()
    assert list(whole.records()) == [keys.absent(ME.id)]


def test_containers_start_while_etcd_lacks_their_network(whole: Whole) -> None:
    """Before the next look finds the loss, Docker must not learn that the network is missing."""
    for call in (NET.leave(), NET.delete_endpoint(), NET.release_address()):
        call.act(whole)
        whole.settle()
    wipe(whole)
    for call in (NET.request_address(), NET.create_endpoint(), NET.join()):
        call.act(whole)
    assert whole.store.entries[key_of(whole, "local endpoint")]


class SwarmNet(Net):
    """A swarm's network, whose id all its nodes share."""

    @property
    def id(self) -> NetworkId:
        return NetworkId(f"{self.number}" * SWARM_ID_LENGTH)


@pytest.mark.parametrize("net", [Net(3), SwarmNet(3)], ids=["local", "swarm"])
def test_an_address_is_lost_after_the_look_at_addresses(
        whole: Whole, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoint is entered before the next look; that knows who has requested the address."""
    for call in (net.request_pool(), net.request_gateway(), net.create_network(),
                 net.request_address(), net.create_endpoint(), net.join(), net.come_up()):
        call.act(whole)
        call.believes(whole)
        whole.settle()
    address = keys.address(net.pool, net.address)
    before, holds = whole.view(), json.loads(whole.store.entries[address][0].value)["holds"]
    enter = whole.addresses.enter

    def enter_and_lose(is_ours: Callable[[EndpointId], bool]) -> list[str]:
        found = enter(is_ours)
        wipe(whole, address)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(whole.addresses, "enter", enter_and_lose)
        assert whole.entering.run()
    assert address in whole.store.entries
    assert whole.entering.run()
    whole.settle()
    assert json.loads(whole.store.entries[address][0].value)["holds"] == holds
    assert whole.difference(before) == ""
