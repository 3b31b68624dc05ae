"""Tests IPv6 on the host path: connections between virtual IPv6 addresses, IPv4 on the wire."""

from __future__ import annotations

import pytest

from tests.netns.talk import (
    best_path,
    client,
    counted,
    counts,
    host_path,
    overlay,
    run,
    server,
    start,
    started,
    wait_for_no_flows,
)
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]
HERE6, THERE6 = "fd00:32::2", "fd00:32::3"

# IPV6_V6ONLY, as nginx sets it for `listen [::]:80`.
_V6ONLY = """
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, int(sys.argv[2]))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((sys.argv[1], 80))
    server.listen(1024)
    serve(server)
"""


def two(here: Machine, there: Machine) -> Pair:
    return (here.container("10.32.0.2/16", address6=f"{HERE6}/64"),
            there.container("10.32.0.3/16", address6=f"{THERE6}/64"))


@pytest.fixture(params=["two hosts", "one host"])
def pair6(request: pytest.FixtureRequest, machines: list[Machine]) -> Pair:
    """Two containers with addresses of both families, across hosts and on one host."""
    return two(machines[0], machines[1 if request.param == "two hosts" else 0])


@pytest.fixture
def across6(machines: list[Machine]) -> Pair:
    """The same, on two hosts: for what only the host path has."""
    return two(*machines)


@pytest.mark.parametrize("address", ["::", THERE6])
def test_both_ends_see_ipv6_names(pair6: Pair, address: str) -> None:
    """A listener that is bound to the address is an IPv6-only one for the kernel."""
    here, there = pair6
    seen = server(there, address=address)
    with best_path(here, there, also={"listener_assigned"}):
        own = client(here, THERE6).split()
    assert own == [HERE6, own[1], THERE6, "80"]
    assert seen.line().split() == [THERE6, "80", HERE6, own[1]]
    wait_for_no_flows(here, there)
