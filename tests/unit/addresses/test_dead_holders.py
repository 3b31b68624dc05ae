"""Tests requests for an address that an endpoint on this host has, be it dead or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from driver.errors import Conflict
from driver.model import EndpointId
from driver.store.format import keys
from tests.support.fakes.kv import FakeKeyValue
from tests.support.faults.calls import Net
from tests.support.world.whole import ME, Whole

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


def test_another_hosts_is_none_of_our_business() -> None:
    whole = made()
    end_container(whole)
    assert not whole.endpoints.bury(EndpointId("f" * 64), lambda _: None)
    kv = FakeKeyValue(whole.store)
    assert kv.count(keys.local_endpoints(ME.id)) == 1
