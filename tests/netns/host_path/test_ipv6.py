"""Tests IPv6 on the host path: connections between virtual IPv6 addresses, IPv4 on the wire."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.datapath.tables.host_paths import BlockedHosts
from driver.datapath.tables.withheld import WithheldMaps
from driver.services.ports import Why
from tests.netns.both_families import HERE6, THERE6, Pair
from tests.netns.talk import (
    best_path,
    client,
    counted,
    host_path,
    overlay,
    run,
    server,
    started,
    wait_for_no_flows,
)
from tests.support.world.machines import Machine


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


def test_an_ipv6_only_client_takes_the_overlay(across6: Pair) -> None:
    """An IPv4 connection is refused to such a socket (ENETUNREACH)."""
    here, there = across6
    server(there, address="::")
    with overlay(here, there, because="ipv6_only"):
        assert run(here, """
            c = socket.socket(socket.AF_INET6)
            c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            c.connect((sys.argv[1], 80))
            print(asked(c).decode(), *c.getpeername()[:2])
        """, THERE6) == f"hello {THERE6} 80"


def test_a_namespace_in_which_sockets_are_ipv6_only(across6: Pair) -> None:
    here, there = across6
    server(there, address="::")
    here.netns.sysctl("ipv6.bindv6only", 1)
    with overlay(here, there, because="ipv6_only"):
        client(here, THERE6)
    code = """
        c = socket.socket(socket.AF_INET6)
        c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        c.connect((sys.argv[1], 80))
        print(asked(c).decode())
    """
    with host_path(here, there):
        assert run(here, code, THERE6) == "hello"


@pytest.mark.parametrize(("bind", "reason"), [
    (("::", 0), "ipv6_only"), (("::", 5555), "ipv6_only"), (("::", 61500), "bound_port"),
    ((HERE6, 0), "bound_address"), ((HERE6, 5555), "bound_address")])
def test_a_bound_client_takes_the_overlay(
        across6: Pair, bind: tuple[str, int], reason: str) -> None:
    """Whether a socket with a port is an IPv6-only one cannot be known."""
    here, there = across6
    seen = server(there, address="::")
    with overlay(here, there, because=reason):
        own = client(here, THERE6, bind=bind).split()
    assert [own[0], *own[2:]] == [HERE6, THERE6, "80"]
    assert seen.line().split() == [THERE6, "80", HERE6, own[1]]


@pytest.mark.parametrize("again", ["same", "other", "outside"])
def test_connect_again_on_a_refused_socket(across6: Pair, again: str) -> None:
    """It stays an IPv4 socket for the kernel: to the host path it may go, nowhere else."""
    here, there = across6
    server(there, address="::")
    to = {"same": THERE6, "other": "fd00:32::99", "outside": "fd99::1"}[again]
    with counted(here, there) as total:
        said = run(here, """
            c = socket.socket(socket.AF_INET6)
            print(error_of(lambda: c.connect((sys.argv[1], 81))))
            print(error_of(lambda: c.connect((sys.argv[2], 80))))
            if sys.argv[1] == sys.argv[2]:
                assert asked(c) == b"hello"
                print(*c.getpeername()[:2], c.getsockname()[0])
        """, THERE6, to).splitlines()
    if again == "same":
        assert said == ["ECONNREFUSED", "none", f"{THERE6} 80 {HERE6}"]
        assert total == {"no_listener": 1, "connected": 1, "accepted": 1}
    else:
        assert said == ["ECONNREFUSED", "EPERM"]
        assert total["reconnect_refused"] == 1


def test_a_host_that_is_gone(across6: Pair) -> None:
    here, there = across6
    here.machine.datapath.refuse_hosts([there.machine.underlay])
    try:
        with counted(here) as total:
            assert run(here, """
                print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
            """, THERE6) == "EHOSTUNREACH"
    finally:
        here.machine.datapath.refuse_hosts([])
    assert total == {"host_dead": 1}


def test_a_host_that_is_blocked(across6: Pair) -> None:
    here, there = across6
    server(there, address="::")
    blocked = BlockedHosts(here.machine.loaded)
    blocked.block([there.machine.underlay])
    try:
        with overlay(here, there, because="peer_blocked"):
            client(here, THERE6)
    finally:
        blocked.block([])


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_container_that_is_kept_off(across6: Pair, side: str) -> None:
    here, there = across6
    server(there, address="::")
    kept = here if side == "client" else there
    WithheldMaps(kept.machine.loaded).withhold(kept.netns.cookie, Why.KEYS)
    if side == "client":
        with overlay(here, there, because="keys"):
            client(here, THERE6)
        return
    with counted(here, there) as total:
        assert run(here, """
            print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
        """, THERE6) == "EHOSTUNREACH"
    assert total["syn_withheld"] == 1


def test_an_old_peer_is_called_over_the_overlay(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16", address6=f"{HERE6}/64")
    there = machines[1].container()
    machines[1].connect(there, "10.32.0.3/16", address6=f"{THERE6}/64", takes_ipv6=False)
    server(there, address="::")
    with overlay(here, there, because="overlay_only"):
        assert client(here, THERE6).split()[2:] == [THERE6, "80"]
    with host_path(here, there):
        client(here, there.address)


def test_a_peer_without_ipv4(machines: list[Machine]) -> None:
    """Endpoint ports belong to IPv4 addresses: the driver gives it none."""
    here = machines[0].container("10.32.0.2/16", address6=f"{HERE6}/64")
    there = machines[1].container("10.32.0.3/16", address6=f"{THERE6}/64")
    endpoint = there.endpoints[0][0]
    server(there, address="::")
    for machine in machines:
        machine.datapath.put_remote(replace(endpoint, address=None, port=0, takes_ipv6=False))
    try:
        with overlay(here, there, because="overlay_only"):
            client(here, THERE6)
    finally:
        for machine in machines:
            machine.datapath.put_remote(endpoint)  # what the fixture expects to withdraw


def test_an_mptcp_client_takes_the_overlay(across6: Pair) -> None:
    here, there = across6
    server(there, address="::")
    with overlay(here, there, because="mptcp_client"):
        assert client(here, THERE6, protocol=262).split()[2:] == [THERE6, "80"]


def test_a_peer_that_is_not_known_yet(across6: Pair) -> None:
    here, _ = across6
    with counted(here) as total:
        assert run(here, """
            print(error_of(lambda: connected("fd00:32::99", 80, family=socket.AF_INET6,
                                             timeout_s=0.1)))
        """) == "timeout"
    assert total["unknown_peer"] == 1


def test_datagrams_are_left_alone(across6: Pair) -> None:
    here, there = across6
    started(there, """
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        server.bind(("", 5000))
        ready()
        while True:
            server.sendto(*server.recvfrom(100))
    """)
    with overlay(here, there):
        assert run(here, """
            c = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            c.settimeout(5)
            c.connect((sys.argv[1], 5000))
            c.send(b"hello")
            print(c.recv(100).decode(), c.getpeername()[0])
        """, THERE6) == f"hello {THERE6}"


@pytest.mark.parametrize("side", ["client", "server"])
def test_options_that_ipv4_lacks_keep_a_container_off(across6: Pair, side: str) -> None:
    """IPV6_MINHOPCOUNT (GTSM) on any of its TCP sockets: by IPv6 only."""
    here, there = across6
    server(there, address="::")
    setter = here if side == "client" else there
    run(setter, "socket.socket(socket.AF_INET6).setsockopt(socket.IPPROTO_IPV6, 73, 1)")
    if side == "client":
        with overlay(here, there, because="ipv6_options"):
            client(here, THERE6)
    else:
        with counted(here, there) as total:
            assert run(here, """
                print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
            """, THERE6) == "EHOSTUNREACH"
        assert total["syn_withheld"] == 1
    with host_path(here, there):
        client(here, there.address)


def test_options_that_are_no_matter(across6: Pair) -> None:
    here, there = across6
    server(there, address="::")
    with host_path(here, there):
        assert run(here, """
            c = socket.socket(socket.AF_INET6)
            for option, value in ((67, 16), (16, 64), (25, 1), (70, 1), (66, 1)):
                c.setsockopt(socket.IPPROTO_IPV6, option, value)
            c.connect((sys.argv[1], 80))
            c.setsockopt(socket.IPPROTO_IPV6, 67, 8)
            print(asked(c).decode(), c.getsockopt(socket.IPPROTO_IPV6, 67))
        """, THERE6) == "hello 8"


def test_both_families_and_a_mapped_client(across6: Pair) -> None:
    here, there = across6
    seen = server(there, address="::")
    mapped = f"::ffff:{there.address}"
    with host_path(here, there, connections=3):
        assert client(here, there.address).split()[2] == there.address
        assert client(here, mapped).split()[2] == mapped
        assert client(here, THERE6).split()[2] == THERE6
    callers = [seen.line().split()[2] for _ in range(3)]
    assert callers == [f"::ffff:{here.address}"] * 2 + [HERE6]
