"""Tests containers of real daemons on hosts whose underlay is IPv6."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import call, check_views, create_network, ping, start
from tests.lab.docker.test_docker_rows import addresses
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


@feature("hosts whose underlay is IPv6")
@pytest.mark.timeout(400)
def test_tcp_to_ipv6_addresses_takes_the_host_path(six: list[Host]) -> None:
    """Both ways, and nothing of it in VXLAN."""
    first, second = six
    for host in six:
        host.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet",
                    "10.32.0.0/16", "--ipv6", "--subnet", "fd00:32::/64", "app")
    start(first, "alice", *SERVE, "::")
    start(second, "bob", *SERVE, "::", options=("--ip6", "fd00:32::99"))
    (_, alice), (_, bob) = addresses(first, "alice")["eth0"], addresses(second, "bob")["eth0"]
    ping(first, "alice", bob)
    ping(second, "bob", alice)
    before = [host.counters() for host in six]
    with first.capture() as wire:
        check_views(call(first, "alice", bob), client=alice, server=bob)
        check_views(call(second, "bob", alice), client=bob, server=alice)
    assert wire.packets("ip6 and tcp portrange 61000-65535")
    assert not wire.packets("udp port 14789")
    for host, old in zip(six, before, strict=True):
        new = host.counters()
        assert [new[name] - old[name] for name in ("connected", "accepted", "ipv6_underlay")] == [
            1, 1, 0]
