"""Tests IPv6 on the host path: connections between virtual IPv6 addresses, IPv4 on the wire."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from driver.datapath.tables.host_paths import BlockedHosts
from driver.datapath.tables.withheld import WithheldMaps
from driver.services.ports import Why
from tests.netns.talk import (
    best_path,
    client,
    counted,
    counts,
    host_path,
    overlay,
    run,
    server,
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


@pytest.mark.parametrize("address", ["::", THERE6])
@pytest.mark.parametrize("protocol", [0, 262])
def test_an_ipv6_only_listener_is_served(pair6: Pair, address: str, protocol: int) -> None:
    here, there = pair6
    seen = started(there, _V6ONLY, address, protocol)
    with best_path(here, there, connections=20, also={"listener_assigned"}) as total:
        run(here, """
            for _ in range(20):
                c = connected(sys.argv[1], 80, family=socket.AF_INET6)
                assert asked(c) == b"hello"
                c.close()
        """, THERE6)
    assert total.get("listener_assigned") in ((20,) if "connected" in total else (None,))
    assert seen.line().split()[:3] == [THERE6, "80", HERE6]
    wait_for_no_flows(here, there)


@pytest.mark.parametrize("first", ["0.0.0.0", "::"])
def test_a_listener_for_each_family(pair6: Pair, first: str) -> None:
    """As nginx has them for `listen 80; listen [::]:80;`."""
    here, there = pair6
    if first == "::":
        seen6 = started(there, _V6ONLY, "::", 0)
        seen4 = server(there, tell="four")
    else:
        seen4 = server(there, tell="four")
        seen6 = started(there, _V6ONLY, "::", 0)
    with best_path(here, there, connections=4, also={"listener_assigned"}):
        for _ in range(2):
            assert client(here, there.address).split()[2] == there.address
            assert client(here, THERE6).split()[2] == THERE6
    assert seen4.line().startswith(f"four {there.address} 80 {here.address}")
    assert seen6.line().startswith(f"{THERE6} 80 {HERE6}")


def test_nginx(pair6: Pair, tmp_path: Path) -> None:
    """It sets IPV6_V6ONLY unless it is told not to, and logs whom it sees."""
    if shutil.which("nginx") is None:
        pytest.skip("missing: nginx")
    here, there = pair6
    (tmp_path / "conf").write_text(f"""
        daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;
        events {{ worker_connections 64; }}
        http {{
            access_log off;
            server {{
                listen 80;
                listen [::]:80;
                location / {{ return 200 "$server_addr $remote_addr"; }}
            }}
        }}
    """)
    there.start("nginx", "-p", str(tmp_path), "-c", str(tmp_path / "conf"), "-e", "stderr")
    run(there, """
        import time
        while error_of(lambda: connected("::1", 80, family=socket.AF_INET6).close()) != "none":
            time.sleep(0.02)
    """)
    ask = """
        import urllib.request
        print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
    """
    with best_path(here, there, connections=2, also={"listener_assigned"}):
        assert run(here, ask, f"http://[{THERE6}]/") == f"{THERE6} {HERE6}"
        assert run(here, ask, f"http://{there.address}/") == f"{there.address} {here.address}"


@pytest.mark.parametrize("v6only_", [False, True])
@pytest.mark.parametrize("protocol", [0, 262])
def test_syn_cookies(pair6: Pair, v6only_: bool, protocol: int) -> None:
    here, there = pair6
    there.netns.sysctl("ipv4.tcp_syncookies", 2)
    seen = (started(there, _V6ONLY, "::", protocol) if v6only_
            else server(there, address="::", protocol=protocol))
    with best_path(here, there, connections=20, also={"listener_assigned"}):
        run(here, """
            for _ in range(20):
                c = connected(sys.argv[1], 80, family=socket.AF_INET6)
                assert asked(c) == b"hello"
                c.close()
        """, THERE6)
    assert seen.line().split()[:3] == [THERE6, "80", HERE6]
    counts = run(there, 'print(tcp_count("SyncookiesSent"), tcp_count("SyncookiesRecv"))')
    assert counts == "20 20"


@pytest.mark.parametrize("v6only_", [False, True])
def test_time_wait_at_the_server(across6: Pair, v6only_: bool) -> None:
    """The server closes first; the clients' ports are so few that each is used again."""
    here, there = across6
    code = """
        def handle(c):
            c.sendall(c.recv(5))
            c.close()
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(sys.argv[1]))
        server.bind(("::", 80))
        server.listen(1024)
        serve(server, handle)
    """
    started(there, code, int(v6only_))
    with host_path(here, there, connections=30, also={"listener_assigned"}):
        run(here, """
            c = socket.socket(socket.AF_INET6)
            for _ in range(30):
                c = connected(sys.argv[1], 80, family=socket.AF_INET6)
                assert asked(c) == b"hello"
                assert c.recv(1) == b""
                c.close()
        """, THERE6)


@pytest.mark.parametrize("v6only_", [False, True])
def test_a_reuseport_group_shares(across6: Pair, v6only_: bool) -> None:
    here, there = across6
    for name in "ab":
        started(there, """
            def handle(c):
                c.recv(5)
                c.sendall(sys.argv[1].encode() * 5)
                c.recv(1)
            server = socket.socket(socket.AF_INET6)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(sys.argv[2]))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("::", 80))
            server.listen(1024)
            serve(server, handle)
        """, name, int(v6only_))
    with host_path(here, there, connections=60, also={"listener_assigned"} if v6only_ else None):
        assert run(here, """
            seen = set()
            for _ in range(60):
                c = connected(sys.argv[1], 80, family=socket.AF_INET6)
                seen.add(asked(c)[:1].decode())
                c.close()
            print(*sorted(seen))
        """, THERE6) == "a b"


def test_a_dual_stack_listener_is_looked_for_once(across6: Pair) -> None:
    """Later SYNs find it without the hook inside the container, which the test removes."""
    here, there = across6
    server(there, address="::")
    with host_path(here, there, connections=2):
        client(here, THERE6)
        there.run("tc", "qdisc", "del", "dev", "eth0", "clsact")
        client(here, THERE6)


def test_listeners_of_another_kind_take_over(across6: Pair) -> None:
    """On one port, each after the one before has closed, of which something is remembered."""
    here, there = across6
    for dual in (True, False, True, False):
        program = server(there, address="::") if dual else started(there, _V6ONLY, "::", 0)
        with host_path(here, there, also={"listener_assigned"}):
            client(here, THERE6)
        program.end()
    with counted(here, there) as total:
        assert run(here, """
            print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
        """, THERE6) == "ECONNREFUSED"
    assert total == {"no_listener": 1}


@pytest.mark.parametrize(("address", "port"), [("0.0.0.0", 80), ("::1", 80), ("::", 81)])
def test_nobody_listens_there(pair6: Pair, address: str, port: int) -> None:
    here, there = pair6
    server(there, port, address=address)
    with counted(here, there) as total:
        assert run(here, """
            print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
        """, THERE6) == "ECONNREFUSED"
    total.pop("overlay_local", None)
    assert total == counts(here, there, on_the_host_path={"no_listener": 1}, directly={"local": 1})


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
