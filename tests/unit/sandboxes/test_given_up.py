"""An endpoint that a driver gave up gets its host path back from the next one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.model import EndpointId
from tests.support.faults.calls import Net
from tests.support.world.whole import Whole

NET = Net()


def ports(whole: Whole) -> list[int]:
    return [each.port for entry in whole.kernel.sandboxes.values() for each in entry.attachments]


@pytest.fixture
def given_up() -> Whole:
    """A host with one container, whose record says: overlay path only; and a new driver."""
    made = Whole()
    made.recover()
    for call in (NET.request_pool(), NET.request_gateway(), NET.create_network(),
                 NET.request_address(), NET.create_endpoint(), NET.join(), NET.come_up()):
        call.act(made)
        made.settle()
    found = made.endpoints.get_endpoint(NET.id, NET.endpoint)
    assert found is not None
    # As drivers wrote it that took the port out of the record, and as it is when none is free.
    made.own_endpoints.replace(replace(found, port=0))
    made.reboot()
    return made


def record_port(whole: Whole) -> int:
    found = whole.endpoints.get_endpoint(NET.id, NET.endpoint)
    assert found is not None
    return found.port


def test_it_asks_for_a_port_and_tells_peers_when_it_is_set_up(given_up: Whole) -> None:
    assert record_port(given_up) == 0
    given_up.recover()
    given_up.settle()
    (port,) = ports(given_up)
    assert port != 0
    assert record_port(given_up) == port
    assert given_up.ports.in_use() == 1


def test_one_that_goes_meanwhile_leaves_no_port_behind(given_up: Whole) -> None:
    given_up.recover()
    given_up.settle()
    given_up.endpoints.delete_endpoint(NET.id, NET.endpoint)
    assert given_up.endpoints.request_port(NET.endpoint) == 0
    assert given_up.ports.in_use() == 0


def test_without_a_free_port_its_sandbox_is_there_all_the_same(given_up: Whole) -> None:
    """Services' addresses work by it, over the overlay path."""
    taken = given_up.ports
    taken.restore_once(list)
    others = [EndpointId(f"{number:064}") for number in range(100)]
    for other in others:
        taken.request(other)
    given_up.recover()
    given_up.settle()
    assert ports(given_up) == [0]
    assert "no endpoint port is free" in given_up.ledger.describe()
    freed = taken.request(others[1])
    taken.release(others[1])
    given_up.settle()
    assert ports(given_up) == [freed]
    assert given_up.ledger.describe() == ""
