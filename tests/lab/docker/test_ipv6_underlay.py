"""Tests containers of real daemons on hosts whose underlay is IPv6."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import call, check_views, create_network, ping, start
from tests.lab.rig.dockers import feature
from tests.lab.rig.hosts import Host


@pytest.fixture
def six(hosts: list[Host]) -> Iterator[list[Host]]:
    """Both hosts with the IPv6 addresses that lab.sh gives them."""
    for number, host in enumerate(hosts, 1):
        host.stop_driver()
        host.start_driver("--underlay", f"fd5a:18::{number}")
    yield hosts
    for host in hosts:
        host.stop_driver()  # the fixture starts it as usual


@feature("hosts whose underlay is IPv6")
@pytest.mark.timeout(400)
def test_containers_reach_each_other(six: list[Host]) -> None:
    first, second = six
    create_network(six)
    a, b = start(first, "alice", *SERVE), start(second, "bob", *SERVE)
    ping(first, "alice", b)
    with first.capture() as wire:
        check_views(call(first, "alice", b), client=a, server=b)
        check_views(call(second, "bob", a), client=b, server=a)
    assert wire.packets("ip6 and udp port 14789")
    assert not wire.packets("ip and (udp port 14789 or tcp portrange 61000-65535)")
    counters = first.counters()
    assert counters["ipv6_underlay"] >= 1
    assert first.docker("exec", "alice", "cat", "/sys/class/net/eth0/mtu") == "1500"
