"""Tests servers on the host path: which listener a SYN finds, and when it finds none."""

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
    started,
    wait_for_no_flows,
)
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]


def test_fork_after_accept(pair: Pair) -> None:
    here, there = pair
    started(there, """
        server = listen("0.0.0.0", 80)
        ready()
        while True:
            c, _ = server.accept()
            if os.fork() == 0:
                server.close()
                c.sendall(c.recv(5) + f" {names(c)}".encode())
                os._exit(0)
            c.close()
    """)
    with best_path(here, there, connections=3):
        for _ in range(3):
            assert run(here, """
                c = connected(sys.argv[1], 80)
                c.sendall(b"hello")
                own, answer = names(c).split(), b""
                while part := c.recv(100):
                    answer += part
                print(answer.decode() == f"hello {own[2]} {own[3]} {own[0]} {own[1]}")
            """, there.address) == "True"
    wait_for_no_flows(here, there)


@pytest.mark.parametrize("protocol", [0, 262])
def test_a_reuseport_group_shares_and_outlives_a_member(pair: Pair, protocol: int) -> None:
    here, there = pair
    members = [started(there, """
        def handle(c):
            c.recv(5)
            c.sendall(sys.argv[1].encode() * 5)
            c.recv(1)
        serve(listen("0.0.0.0", 80, reuse_port=True, protocol=int(sys.argv[2])), handle)
    """, name, protocol) for name in "ab"]
    code = """
        seen = set()
        for _ in range(60):
            c = connected(sys.argv[1], 80)
            seen.add(asked(c)[:1].decode())
            c.close()
        print(*sorted(seen))
    """
    also = {"listener_assigned"} if protocol else None
    with best_path(here, there, connections=60, also=also):
        assert run(here, code, there.address) == "a b"
    members[0].end()
    with best_path(here, there, connections=60, also=also):
        assert run(here, code, there.address) == "b"


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_listener_that_was_there_before_the_network(
        machines: list[Machine], address: str) -> None:
    there = machines[1].container()
    here = machines[0].container("10.32.0.2/16")
    seen = server(there, address=address)
    machines[1].connect(there, "10.32.0.3/16")
    with host_path(here, there):
        client(here, there.address)
    prefix = "::ffff:" if address == "::" else ""
    assert seen.line().split()[:3] == [prefix + there.address, "80", prefix + here.address]


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_an_mptcp_listener(pair: Pair, address: str) -> None:
    here, there = pair
    seen = server(there, address=address, protocol=262)
    with best_path(here, there, connections=20, also={"listener_assigned"}) as total:
        run(here, """
            for _ in range(20):
                c = connected(sys.argv[1], 80)
                assert asked(c) == b"hello"
                c.close()
        """, there.address)
    assert total.get("listener_assigned") in ((20,) if "connected" in total else (None,))
    prefix = "::ffff:" if address == "::" else ""
    assert seen.line().split()[:3] == [prefix + there.address, "80", prefix + here.address]
    wait_for_no_flows(here, there)


@pytest.mark.parametrize("protocol", [0, 262])
def test_syn_cookies(pair: Pair, protocol: int) -> None:
    here, there = pair
    there.netns.sysctl("ipv4.tcp_syncookies", 2)
    seen = server(there, protocol=protocol)
    with best_path(here, there, connections=20, also={"listener_assigned"}):
        sent = run(here, """
            for _ in range(20):
                c = connected(sys.argv[1], 80)
                assert asked(c) == b"hello"
                c.close()
        """, there.address)
    assert not sent
    assert seen.line().split()[:3] == [there.address, "80", here.address]
    counts = run(there, """
        heads, values = [l.split() for l in open("/proc/net/netstat") if l.startswith("TcpExt")]
        counts = dict(zip(heads, values))
        print(counts["SyncookiesSent"], counts["SyncookiesRecv"])
    """)
    assert counts == "20 20"


def test_what_programs_know_of_a_port_outlives_a_new_driver(across: Pair) -> None:
    """It publishes all sandboxes again: ACKs of SYN cookies must find their listener."""
    here, there = across
    server(there, protocol=262)
    client(here, there.address)
    ports = there.machine.loaded.table("ports")
    key = ports.Key(there.endpoints[0][0].port)
    before = bytes(ports[key])
    assert ports[key].assigned == 1
    assert ports[key].listens > 0
    there.machine.finish(there)
    assert bytes(ports[key]) == before


@pytest.mark.parametrize("protocol", [0, 262])
def test_time_wait_at_the_server(pair: Pair, protocol: int) -> None:
    """The server closes first; its listener must be found again on a tuple in TIME_WAIT."""
    here, there = pair
    started(there, """
        def handle(c):
            c.sendall(c.recv(5))
            c.close()
        serve(listen("0.0.0.0", 80, protocol=int(sys.argv[1])), handle)
    """, protocol)
    with best_path(here, there, connections=30, also={"listener_assigned"}):
        run(here, """
            for _ in range(30):
                c = connected(sys.argv[1], 80, bind=("", 5555))
                assert asked(c) == b"hello"
                assert c.recv(1) == b""
                c.close()
        """, there.address)


@pytest.mark.parametrize("protocol", [0, 262])
@pytest.mark.parametrize("closed", [False, True])
def test_a_connection_on_the_overlay_has_the_same_names(across: Pair, protocol: int,
                                                        closed: bool) -> None:
    """It is open, or in TIME_WAIT: the caller may use its own port on both paths."""
    here, there = across
    started(there, """
        def handle(c):
            c.sendall(c.recv(5))
            if not int(sys.argv[2]):
                c.recv(1)
            c.close()
        serve(listen("0.0.0.0", 80, protocol=int(sys.argv[1])), handle)
    """, protocol, int(closed))
    with counted(here, there) as total:
        assert run(here, """
            first = connected(sys.argv[1], 80, bind=(sys.argv[2], 5555))
            assert asked(first) == b"hello"
            if int(sys.argv[3]):
                assert first.recv(1) == b""
                first.close()
            second = connected(sys.argv[1], 80, bind=("", 5555))
            print(asked(second).decode(), names(second))
        """, there.address, here.address, int(closed)) == (
            f"hello {here.address} 5555 {there.address} 80")
    assert (total["bound_address"], total["connected"], total["accepted"]) == (1, 1, 1), total
    assert "no_listener" not in total


def test_a_more_specific_listener_takes_over_and_gives_back(pair: Pair) -> None:
    here, there = pair
    program = started(there, """
        def answer(server, name):
            while True:
                try:
                    c, _ = server.accept()
                except OSError:
                    return
                c.recv(5)
                c.sendall(name * 5)
                c.close()
        def serving(address, name):
            server = listen(address, 80, reuse_port=True)
            threading.Thread(target=answer, args=(server, name), daemon=True).start()
            return server
        serving("0.0.0.0", b"w")
        ready()
        sys.stdin.readline()
        narrow = serving(sys.argv[1], b"n")
        ready()
        sys.stdin.readline()
        narrow.shutdown(socket.SHUT_RDWR)
        narrow.close()
        ready()
        sys.stdin.readline()
    """, there.address)
    code = "print(asked(connected(sys.argv[1], 80)).decode())"
    with best_path(here, there, connections=3):
        assert run(here, code, there.address) == "wwwww"
        program.say("open the narrow one")
        assert program.line() == "ready"
        assert run(here, code, there.address) == "nnnnn"
        program.say("close it")
        assert program.line() == "ready"
        assert run(here, code, there.address) == "wwwww"


def test_a_listener_closes_and_another_opens(pair: Pair) -> None:
    here, there = pair
    with counted(here, there) as total:
        first = server(there, tell="first")
        client(here, there.address)
        assert first.line().startswith("first")
        first.end()
        assert run(here, """
            print(error_of(lambda: connected(sys.argv[1], 80)))
        """, there.address) == "ECONNREFUSED"
        second = server(there, address="::", tell="second")
        client(here, there.address)
        assert second.line().startswith("second")
    total.pop("overlay_local", None)  # a packet each
    assert total == counts(here, there, directly={"local": 3}, on_the_host_path={
        "connected": 2, "accepted": 2, "no_listener": 1})


def test_a_listener_is_looked_for_once(across: Pair) -> None:
    """Later SYNs find it without the hook inside the container, which the test removes."""
    here, there = across
    server(there, tell="first", reuse_port=True)
    with host_path(here, there, connections=2):
        client(here, there.address)
        there.run("tc", "qdisc", "del", "dev", "eth0", "clsact")
        client(here, there.address)
    server(there, tell="second", reuse_port=True)  # now there are two to choose from
    assert run(here, """
        print(error_of(lambda: connected(sys.argv[1], 80)))
    """, there.address) == "ECONNREFUSED"


def test_a_listener_does_not_follow_its_address_to_another_container(
        machines: list[Machine]) -> None:
    """It still listens in the namespace that has lost the address."""
    here = machines[0].container("10.32.0.2/16")
    before, after = machines[1].container(), machines[1].container()
    endpoint = machines[1].connect(before, "10.32.0.3/16")
    server(before, tell="before")
    with host_path(here, before):
        client(here, "10.32.0.3")
    machines[1].disconnect(before, endpoint)
    machines[1].connect(after, "10.32.0.3/16")
    seen = server(after, tell="after")
    with host_path(here, after):
        client(here, "10.32.0.3")
    assert seen.line().startswith("after")


@pytest.mark.parametrize(("address", "port"), [("127.0.0.1", 80), ("0.0.0.0", 81)])
def test_nobody_listens_there(pair: Pair, address: str, port: int) -> None:
    here, there = pair
    server(there, port, address=address)
    with counted(here, there) as total:
        assert run(here, """
            print(error_of(lambda: connected(sys.argv[1], 80)))
        """, there.address) == "ECONNREFUSED"
    total.pop("overlay_local", None)
    assert total == counts(here, there, on_the_host_path={"no_listener": 1}, directly={"local": 1})


def test_an_ipv6_only_listener_is_not_found(pair: Pair) -> None:
    here, there = pair
    started(there, """
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(("::", 80))
        server.listen()
        serve(server)
    """)
    assert run(here, """
        print(error_of(lambda: connected(sys.argv[1], 80)))
    """, there.address) == "ECONNREFUSED"


def test_a_listener_on_the_virtual_address(pair: Pair) -> None:
    here, there = pair
    server(there, address=there.address)
    with best_path(here, there):
        client(here, there.address)


def test_listeners_with_the_same_virtual_port_on_one_host(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    others = [machines[1].container(f"10.32.0.{n}/16") for n in (3, 4, 5)]
    for other in others:
        server(other)
    with host_path(here, *others, connections=3):
        for other in others:
            assert client(here, other.address).split()[2:] == [other.address, "80"]


def test_one_listener_serves_both_paths(pair: Pair) -> None:
    here, there = pair
    server(there)
    with best_path(here, there):
        client(here, there.address)
    with overlay(here, there, because="bound_address"):
        client(here, there.address, bind=(here.address, 0))
