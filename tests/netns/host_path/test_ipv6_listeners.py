"""Tests which listener a SYN finds that means IPv6, and is IPv4 on the wire."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from driver.datapath.loading.load import ASSIGNS_GROUPS, kernel_release
from tests.netns.both_families import HERE6, THERE6, Pair
from tests.netns.kept_off.noted import told
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

# IPV6_V6ONLY, as nginx sets it for `listen [::]:80`.
_V6ONLY = """
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, int(sys.argv[2]))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((sys.argv[1], 80))
    server.listen(1024)
    serve(server)
"""


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
    with ExitStack() as stack:
        if kernel_release() < ASSIGNS_GROUPS:  # test_listener_groups.py
            stack.enter_context(told(there))
            stack.enter_context(overlay(here, there))
        else:
            stack.enter_context(host_path(here, there, connections=60,
                                          also={"listener_assigned"} if v6only_ else None))
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
