"""Tests who gets an endpoint port on a host whose underlay is IPv6."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

import pytest

from driver.model import Host
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.endpoints.requests import EndpointRequest
from tests.support.fakes.ports import HOST, World
from tests.unit.endpoints.test_steps import EP, NET, create_network

OVER_IPV6 = replace(HOST, underlay=IPv6Address("2001:db8::1"))
ADDRESS, ADDRESS6 = IPv4Interface("10.32.0.2/16"), IPv6Interface("fd00:32::2/64")


@pytest.mark.parametrize(("host", "address", "address6", "has_host_path", "gets"), [
    (HOST, ADDRESS, None, True, True),
    (HOST, ADDRESS, ADDRESS6, True, True),
    (HOST, None, ADDRESS6, True, False),
    (OVER_IPV6, ADDRESS, ADDRESS6, True, True),
    (OVER_IPV6, ADDRESS, None, True, False),
    (OVER_IPV6, None, ADDRESS6, True, False),
    (OVER_IPV6, ADDRESS, ADDRESS6, False, False),  # a managed plugin
])
def test_who_gets_one(host: Host, address: IPv4Interface | None,
                      address6: IPv6Interface | None, has_host_path: bool, gets: bool) -> None:
    world = World()
    create_network(world)
    service = EndpointService(
        host=host, networks=world.networks, endpoints=world.endpoints, links=world.endpoint_links,
        datapath=world.datapath, finisher=world.finisher, ports=world.ports,
        random_bytes=bytes, underlay_mtu=lambda: 1500, has_host_path=has_host_path)
    made = service.create_endpoint(EndpointRequest(EP, NET, address, address6, None))
    assert (made.port != 0) is gets
    assert made.takes_ipv6 is (gets and address6 is not None)
    assert (service.request_port(made.id) != 0) is gets
