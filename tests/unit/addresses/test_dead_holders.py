"""Tests requests for an address that an endpoint on this host has, be it dead or not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from driver.errors import Conflict, Exhausted
from driver.model import EndpointId, HostId
from driver.services.addresses.service import AddressService
from driver.store.address_book import EtcdAddressBook
from driver.store.format import keys
from tests.support.fakes.kv import FakeKeyValue
from tests.support.faults.calls import Net
from tests.support.world.whole import COLLECT_S, ME, Whole

NET = Net()
POOL_ID = f"slim-local/{NET.pool}"


def made(*, joined: bool = True, dynamic: bool = False) -> Whole:
    """Make a host with one container; dynamic: the IPAM chose its address."""
    whole = Whole()
    whole.recover()
    for call in (NET.request_pool(), NET.request_gateway(), NET.create_network()):
        call.act(whole)
    if dynamic:
        while whole.addresses.request_address(POOL_ID, "", options={}).ip != NET.address:
            pass
    else:
        NET.request_address().act(whole)
    for call in (NET.create_endpoint(), *((NET.join(), NET.come_up()) if joined else ())):
        call.act(whole)
        whole.settle()
    return whole


def end_container(whole: Whole) -> None:
    """End the container without a call: dockerd died with it, or found no driver."""
    whole.kernel.end_namespace(NET.key)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_dead_one_is_replaced_at_once(dynamic: bool) -> None:
    whole = made(dynamic=dynamic)
    end_container(whole)
    NET.request_address().act(whole)
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is None
    assert whole.ports.in_use() == 0
    whole.settle()
    again = NET.create_endpoint()
    again.act(whole)
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is not None


def link_is_left(whole: Whole) -> None:
    kept = dict(whole.kernel.links)
    end_container(whole)
    whole.kernel.links.update(kept)


def sandbox_is_left(whole: Whole) -> None:
    whole.kernel.links.clear()


def all_is_well(_whole: Whole) -> None:
    pass


@pytest.mark.parametrize("what", [link_is_left, sandbox_is_left, all_is_well])
def test_one_that_may_live_keeps_it(what: Callable[[Whole], None]) -> None:
    whole = made()
    what(whole)
    with pytest.raises(Conflict, match="belongs to endpoint"):
        NET.request_address().act(whole)
    assert whole.endpoints.get_endpoint(NET.id, NET.endpoint) is not None


def test_one_that_is_not_joined_yet_keeps_it() -> None:
    """The kernel does not show whether dockerd is about to join it."""
    whole = made(joined=False)
    whole.kernel.links.clear()
    with pytest.raises(Conflict, match="belongs to endpoint"):
        NET.request_address().act(whole)


OTHERS = "2" * 32


def request_elsewhere(whole: Whole, address: str = "") -> str:
    """Request an address as another host does."""
    there = AddressService(EtcdAddressBook(FakeKeyValue(whole.store)), HostId(OTHERS),
                           supernets=[], routed=tuple, random=Random(1))
    pool = there.request_pool("slim-local", NET.pool, "", v6=False, options={}).pool_id
    return str(there.request_address(pool, address, options={}).ip)


def after_a_crash(*, dynamic: bool = False) -> Whole:
    """Make a host whose container ended with it, and whose dockerd has tidied up after that."""
    whole = made(dynamic=dynamic)
    end_container(whole)
    for call in (NET.leave(), NET.delete_endpoint(), NET.release_address()):
        call.act(whole)
    whole.settle()
    return whole


def free_elsewhere(whole: Whole) -> set[str]:
    def ask() -> str:
        try:
            return request_elsewhere(whole)
        except Exhausted:
            return ""

    return set(iter(ask, ""))


def test_a_named_one_is_kept_after_a_crash_of_the_host() -> None:
    whole = after_a_crash()
    with pytest.raises(Conflict, match="is kept for a container of host"):
        request_elsewhere(whole, str(NET.address))
    assert str(NET.address) not in free_elsewhere(whole)
    for call in (NET.request_address(), NET.create_endpoint()):
        call.act(whole)
    with pytest.raises(Conflict, match="belongs to endpoint"):
        request_elsewhere(whole, str(NET.address))
    for call in (NET.delete_endpoint(), NET.release_address()):  # nothing ended without a call
        call.act(whole)
    assert request_elsewhere(whole, str(NET.address)) == str(NET.address)


def test_one_that_the_ipam_chose_is_not() -> None:
    whole = after_a_crash(dynamic=True)
    assert request_elsewhere(whole, str(NET.address)) == str(NET.address)


def test_one_that_nobody_comes_for_is_collected() -> None:
    whole = after_a_crash()
    for _ in range(3):
        whole.now_s += COLLECT_S
        whole.collector.run()
    assert request_elsewhere(whole, str(NET.address)) == str(NET.address)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_full_pool_has_room_again_where_dead_ones_are(dynamic: bool) -> None:
    """dockerd could not release them, for want of a driver; a named one waits for its owner."""
    whole = made(dynamic=dynamic)
    assert free_elsewhere(whole)
    end_container(whole)
    if dynamic:
        assert whole.addresses.request_address(POOL_ID, "", options={}).ip == NET.address
        NET.release_address().act(whole)
        assert whole.addresses.enter(lambda _: True) == [], "nothing is taken for lost in etcd"
        assert request_elsewhere(whole) == str(NET.address)
    with pytest.raises(Exhausted):
        whole.addresses.request_address(POOL_ID, "", options={})
    if not dynamic:
        NET.request_address().act(whole)


def test_another_hosts_is_none_of_our_business() -> None:
    whole = made()
    end_container(whole)
    assert not whole.endpoints.bury(EndpointId("f" * 64), lambda _: None)
    kv = FakeKeyValue(whole.store)
    assert kv.count(keys.local_endpoints(ME.id)) == 1
