"""Tests any --port-range, with connections between hosts that reserve it as the driver does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from driver.client_ports import parse_ports
from tests.netns.talk import host_path, run, server, wait_for_no_flows
from tests.support.world import netns
from tests.support.world.machines import Cluster, Container, lent

CONNECTIONS = 320


@pytest.fixture(scope="module")
def ranged(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two hosts with the port range that the test names."""
    netns.require_root()
    with ExitStack() as stack:
        cluster = Cluster(stack, request.param)
        for _ in range(2):
            cluster.add_machine().netns.sysctl(
                "ipv4.ip_local_reserved_ports", "{}-{}".format(*request.param))
        yield cluster


@pytest.fixture
def pair_of(ranged: Cluster) -> Iterator[tuple[Container, Container]]:
    """A container on each host."""
    with lent(ranged) as machines:
        yield machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


@pytest.mark.parametrize(("ranged", "clients"), [
    ((20000, 30000), "32768-60999"),
    ((40000, 50000), "32768-39999,50001-60999"), ((50000, 60999), "32768-49999"),
    ((61000, 65535), "32768-60999"), ((32768, 40000), "40001-60999")], indirect=["ranged"])
def test_every_connection_on_the_host_path(pair_of: tuple[Container, Container], clients: str
                                           ) -> None:
    here, there = pair_of
    for caller, callee in ((here, there), (there, here)):
        server(callee)
        with host_path(here, there, connections=CONNECTIONS):
            used = run(caller, """
                for _ in range(int(sys.argv[2])):
                    with connected(sys.argv[1], 80) as c:
                        assert asked(c) == b"hello"
                        print(c.getsockname()[1])
            """, callee.address, CONNECTIONS)
        ports = set(map(int, used.split()))
        assert ports <= parse_ports(clients)
        # Ports of every span occur: each span has at least a quarter of the ports.
        for span in clients.split(","):
            assert ports & parse_ports(span)
    wait_for_no_flows(here, there)


@pytest.mark.parametrize("ranged", [(32768, 40000)], indirect=True)
def test_the_hosts_own_clients_get_none_of_the_endpoints(
        pair_of: tuple[Container, Container]) -> None:
    """Only a client that names a reserved port gets one."""
    host, ports = pair_of[0].machine.netns, pair_of[0].machine.cluster.ports
    host.sysctl("ipv4.ip_local_port_range", f"{ports[0]} {ports[1] + 100}")
    done = host.run("python3", "-c", """if True:
        import socket
        kept = []
        for _ in range(100):
            kept.append(socket.socket())
            kept[-1].bind(("", 0))
            print(kept[-1].getsockname()[1])
    """)
    assert set(map(int, done.stdout.split())) == set(range(ports[1] + 1, ports[1] + 101))


