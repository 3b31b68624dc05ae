"""Tests three hosts: all reach each other, and what happens to one does not affect the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import call, check_views, create_network, ping, start
from tests.lab.rig.dockers import MIXED, VERSIONS, docker, feature
from tests.lab.rig.hosts import Host, Lab
from tests.lab.rig.snapshot import remove_everything
from tests.lab.rig.traffic import Traffic
from tests.support.run.wait import wait_until

pytestmark = docker(VERSIONS[0], MIXED)

@pytest.fixture(scope="module")
def third(lab: Lab) -> Host:
    """A third host, which other tests do not check; its driver runs only when a test starts it."""
    *others, third = lab.up(3)
    lab.hosts = others
    return third


@pytest.fixture
def three(hosts: list[Host], third: Host) -> Iterator[list[Host]]:
    third.start_driver()
    try:
        yield [*hosts, third]
    finally:
        third.start_driver()
        remove_everything(third)
        third.stop_driver()


@feature("three hosts in one network, broadcasts too")
def test_everybody_reaches_everybody(three: list[Host]) -> None:
    create_network(three)
    addresses = {host.name: start(host, f"on-{host.name}", *SERVE) for host in three}
    for here, there in permutations(three, 2):
        assert " 0% packet loss" in ping(here, f"on-{here.name}", addresses[there.name])
    traffic = Traffic(three)
    for here, there in permutations(three, 2):
        seen = call(here, f"on-{here.name}", addresses[there.name], "--retry-s", "10")
        check_views(seen, addresses[here.name], addresses[there.name])
    traffic.end()
    for host in three:
        assert traffic.connected(host) >= 2
        assert traffic.grown[host].get("unknown_peer", 0) == 0


@feature("three hosts in one network, broadcasts too")
def test_a_broadcast_reaches_each_endpoint_once(three: list[Host]) -> None:
    create_network(three)
    listen = ("python3", "/programs/udp.py", "listen", "9000")
    start(three[0], "sender")
    names = [(host, f"ear-{host.name}") for host in three]
    for host, name in names:
        start(host, name, *listen)
    for host, name in names:
        wait_until(lambda host=host, name=name: "listening" in host.docker("logs", name), 10,
                   f"{name} listens")
    for number in range(3):
        three[0].docker("exec", "sender", "python3", "/programs/udp.py", "send",
                        "10.32.255.255", "9000", f"hello-{number}")
    for host, name in names:
        wait_until(lambda host=host, name=name: "hello-2" in host.docker("logs", name), 10,
                   f"{name} hears")
        heard = host.docker("logs", name)
        assert [heard.count(f"hello-{number}") for number in range(3)] == [1, 1, 1]


@feature("a host whose driver dies does not disturb the others")
def test_a_host_that_dies_does_not_disturb_the_others(three: list[Host], lab: Lab) -> None:
    first, second, third = three
    create_network(three)
    address = start(first, "server", *SERVE)
    start(second, "client")
    start(third, "doomed")
    third.kill_driver()
    seen = call(second, "client", address, "--retry-s", "10")
    assert seen.client_peer == [address, 7000]
    third.start_driver()
    seen = call(third, "doomed", address)
    assert seen.client_peer == [address, 7000]
