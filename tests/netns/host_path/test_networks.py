"""Tests containers on several networks: names, isolation, connecting and disconnecting."""

from __future__ import annotations

from tests.netns.talk import (
    RELEASE_S,
    Program,
    client,
    counted,
    flows,
    host_path,
    overlay,
    run,
    server,
    start,
)
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

_TALKING = """
    c = connected(sys.argv[1], 80, timeout_s=None)
    c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 800)
    for _ in sys.stdin:
        error = error_of(lambda: asked(c))
        print(error, flush=True)
"""


def test_each_connection_has_the_names_of_its_network(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16", "10.33.0.2/16")
    there = machines[1].container("10.32.0.3/16", "10.33.0.3/16")
    seen = server(there)
    with host_path(here, there, connections=2):
        for net in ("10.32.0.", "10.33.0."):
            own = client(here, net + "3").split()
            assert [own[0], *own[2:]] == [net + "2", net + "3", "80"]
            assert seen.line().split()[:3] == [net + "3", "80", net + "2"]


def test_a_listener_at_one_network_is_not_in_the_other(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16", "10.33.0.2/16")
    there = machines[1].container("10.32.0.3/16", "10.33.0.3/16")
    server(there, address="10.33.0.3")
    with host_path(here, there):
        client(here, "10.33.0.3")
    assert run(here, 'print(error_of(lambda: connected("10.32.0.3", 80)))') == "ECONNREFUSED"


def test_networks_with_the_same_subnet_never_mix(machines: list[Machine]) -> None:
    ones = [machine.container(f"10.32.0.{n}/16", vni=1) for n, machine in enumerate(machines, 2)]
    twos = [machine.container(f"10.32.0.{n}/16", vni=2) for n, machine in enumerate(machines, 2)]
    only_in_two = machines[1].container("10.32.0.9/16", vni=2)
    seen = [server(ones[1], tell="one"), server(twos[1], tell="two")]
    server(only_in_two)
    for container, program, name in ((ones[0], seen[0], "one"), (twos[0], seen[1], "two")):
        with host_path(container, ones[1]):
            client(container, "10.32.0.3")
        assert program.line().split()[0] == name
        assert container.run("ping", "-c1", "-W2", "10.32.0.3").returncode == 0
    with counted(ones[0], ones[1]) as total:
        assert run(ones[0], """
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            print(error_of(lambda: c.connect(("10.32.0.9", 80))))
        """) == "ETIMEDOUT"
        assert ones[0].run("ping", "-c1", "-W1", "10.32.0.9", check=False).returncode != 0
    assert total["unknown_peer"] == 1
    assert set(total) == {"unknown_peer", "unknown_destination"}


def test_networks_do_not_route_into_each_other(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1].container("10.33.0.3/16", vni=2)
    server(there)
    here.netns.ip("route add 10.33.0.0/16 dev eth0")
    with counted(here, there) as total:
        assert run(here, """
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            print(error_of(lambda: c.connect(("10.33.0.3", 80))))
        """) == "ETIMEDOUT"
    assert set(total) == {"unknown_destination"}


def test_a_network_connected_later_is_used_at_once(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1].container("10.32.0.3/16")
    first = server(there)
    kept = start(here, _TALKING, "10.32.0.3")
    assert kept.ask() == "none"
    first.line()
    machines[0].connect(here, "10.33.0.2/16", vni=2)
    machines[1].connect(there, "10.33.0.3/16", vni=2)
    with host_path(here, there):
        assert client(here, "10.33.0.3").split()[2] == "10.33.0.3"
    assert first.line().split()[2] == "10.33.0.2"
    assert kept.ask() == "none"


def _two_networks(machines: list[Machine]) -> tuple[Container, Container, Program, Program]:
    here = machines[0].container("10.32.0.2/16", "10.33.0.2/16")
    there = machines[1].container("10.32.0.3/16", "10.33.0.3/16")
    server(there)
    first, second = (start(here, _TALKING, f"{net}.0.3") for net in ("10.32", "10.33"))
    assert first.ask() == second.ask() == "none"
    return here, there, first, second


def test_disconnecting_one_network_ends_its_connections_only(machines: list[Machine]) -> None:
    here, there, first, second = _two_networks(machines)
    machines[0].disconnect(here, here.endpoints[1][0])
    wait_until(lambda: flows(here) == 1, RELEASE_S, "flows of the network to go")
    assert second.ask() != "none"
    assert first.ask() == "none"
    with host_path(here, there):
        client(here, "10.32.0.3")


def test_the_first_network_goes_and_another_interface_takes_over(
        machines: list[Machine]) -> None:
    """Host path packets used the interface that goes."""
    here, there, first, second = _two_networks(machines)
    machines[0].disconnect(here, here.endpoints[0][0])
    assert second.ask() == "none"
    assert first.ask() != "none"
    with host_path(here, there):
        assert client(here, "10.33.0.3").split()[0] == "10.33.0.2"
    server(here, 81)
    with host_path(here, there):
        client(there, "10.33.0.2", 81)
    with overlay(here, there):
        here.run("ping", "-c1", "-W2", "10.33.0.3")


def test_the_servers_first_network_goes(machines: list[Machine]) -> None:
    here, there, first, second = _two_networks(machines)
    machines[1].disconnect(there, there.endpoints[0][0])
    assert second.ask() == "none"
    assert first.ask() != "none"
    with host_path(here, there):
        client(here, "10.33.0.3")
