"""Tests clients on the host path: how they connect, what they bind to, how connecting fails."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Interface

import pytest

from tests.netns.talk import (
    best_path,
    client,
    counted,
    counts,
    flows,
    overlay,
    run,
    server,
    start,
    started,
    wait_for_no_flows,
)
from tests.support.world.machines import Container, Machine
from tests.support.world.maps import delete_all

Pair = tuple[Container, Container]


def test_non_blocking_connect_with_epoll(pair: Pair) -> None:
    here, there = pair
    server(there)
    with best_path(here, there):
        assert run(here, """
            import errno, select
            c = socket.socket()
            c.setblocking(False)
            assert c.connect_ex((sys.argv[1], 80)) == errno.EINPROGRESS
            poll = select.epoll()
            poll.register(c, select.EPOLLOUT | select.EPOLLET)
            assert poll.poll(5) == [(c.fileno(), select.EPOLLOUT)]
            assert c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            c.send(b"hello")
            poll.modify(c, select.EPOLLIN)
            assert poll.poll(5) == [(c.fileno(), select.EPOLLIN)]
            print(c.recv(100).decode(), *c.getpeername())
        """, there.address) == f"hello {there.address} 80"


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("port", [0, 5555])
def test_a_client_bound_to_a_port_only(pair: Pair, port: int, mapped: bool) -> None:
    here, there = pair
    seen = server(there)
    v = "::ffff:" if mapped else ""
    with best_path(here, there):
        own = client(here, v + there.address, bind=("::" if mapped else "0.0.0.0", port)).split()
    assert own[0] == v + here.address
    assert not port or own[1] == str(port)
    assert own[2:] == [v + there.address, "80"]
    assert seen.line().split()[2:] == [here.address, own[1]]
    wait_for_no_flows(here, there)


def test_one_bound_port_towards_two_virtual_ports_of_a_peer(pair: Pair) -> None:
    """On the host path both would have the same tuple, so the second takes the overlay path."""
    here, there = pair
    server(there, 80)
    seen = server(there, 81)
    first = start(here, """
        c = connected(sys.argv[1], 80, bind=("", 5555))
        print(asked(c).decode(), flush=True)
        sys.stdin.readline()
        assert asked(c) == b"hello"
    """, there.address)
    assert first.line() == "hello"
    with overlay(here, there, because="flow_refused"):
        assert client(here, there.address, 81, bind=("", 5555)) == (
            f"{here.address} 5555 {there.address} 81")
    assert seen.line().split() == [there.address, "81", here.address, "5555"]
    first.say("go on")
    first.rest()


def test_a_client_bound_to_its_virtual_address_takes_the_overlay(pair: Pair) -> None:
    here, there = pair
    seen = server(there)
    with overlay(here, there, because="bound_address"):
        own = client(here, there.address, bind=(here.address, 0)).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]


def test_a_client_bound_to_a_device_takes_the_overlay(pair: Pair) -> None:
    here, there = pair
    server(there)
    with overlay(here, there, because="bound_address"):
        assert run(here, """
            c = socket.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            c.connect((sys.argv[1], 80))
            print(asked(c).decode(), c.getpeername()[0])
        """, there.address) == f"hello {there.address}"


@pytest.mark.parametrize("closes_first", ["server", "client"])
def test_a_tuple_in_time_wait_is_used_again_at_once(pair: Pair, closes_first: str) -> None:
    here, there = pair
    started(there, """
        def handle(c):
            asked = c.recv(5)
            c.sendall(asked)
            if sys.argv[1] == "client":
                c.recv(1)
            c.close()
        serve(listen("0.0.0.0", 80), handle)
    """, closes_first)
    with best_path(here, there, connections=60):
        run(here, """
            for _ in range(60):
                c = connected(sys.argv[1], 80, bind=("", 5555))
                assert asked(c) == b"hello"
                if sys.argv[2] == "client":
                    c.shutdown(socket.SHUT_WR)
                assert c.recv(1) == b""
                c.close()
                # Who closes last waits for one more ACK; until then no host gives the tuple away.
                while sockets_in_last_ack(5555):
                    pass
        """, there.address, closes_first)


def test_many_short_connections_of_unbound_clients(pair: Pair) -> None:
    here, there = pair
    server(there)
    with best_path(here, there, connections=300):
        run(here, """
            for _ in range(300):
                c = connected(sys.argv[1], 80)
                assert asked(c) == b"hello"
                c.close()
        """, there.address)


def test_refused_at_once_and_the_same_socket_connects_later(pair: Pair) -> None:
    here, there = pair
    with counted(here, there) as total:
        program = start(here, """
            c = socket.socket()
            print(error_of(lambda: c.connect((sys.argv[1], 80))), flush=True)
            sys.stdin.readline()
            c.connect((sys.argv[1], 80))
            print(asked(c).decode(), c.getsockname()[0], *c.getpeername())
        """, there.address)
        assert program.line() == "ECONNREFUSED"
    total.pop("overlay_local", None)
    assert total == counts(here, there, on_the_host_path={"no_listener": 1}, directly={"local": 1})
    wait_for_no_flows(here, there)
    server(there)
    with best_path(here, there):
        program.say("again")
        assert program.rest() == f"hello {here.address} {there.address} 80"


def test_a_refused_socket_connects_elsewhere(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1].container("10.32.0.3/16")
    other = machines[1].container("10.32.0.4/16")
    server(other)
    with counted(here, there, other) as total:
        assert run(here, """
            c = socket.socket()
            print(error_of(lambda: c.connect((sys.argv[1], 80))))
            c.connect((sys.argv[2], 80))
            print(asked(c).decode(), *c.getpeername())
            c = socket.socket()
            print(error_of(lambda: c.connect((sys.argv[1], 80))))
            # Bound to the host's address by now: where that cannot work it must fail at once.
            print(error_of(lambda: c.connect(("10.32.0.99", 80))))
        """, there.address, other.address).splitlines() == [
            "ECONNREFUSED", f"hello {other.address} 80", "ECONNREFUSED", "EPERM"]
    assert total == {"connected": 1, "accepted": 1, "no_listener": 2, "unknown_peer": 1,
                     "reconnect_refused": 1}


def test_a_socket_used_again_after_disconnecting(pair: Pair) -> None:
    here, there = pair
    seen = server(there)
    with best_path(here, there, connections=2):
        run(here, """
            import ctypes
            c = connected(sys.argv[1], 80)
            asked(c)
            unspec = struct.pack("H14x", socket.AF_UNSPEC)
            assert ctypes.CDLL(None).connect(c.fileno(), unspec, 16) == 0
            c.connect((sys.argv[1], 80))
            assert asked(c) == b"hello"
            print(names(c))
        """, there.address)
        first, second = seen.line().split(), seen.line().split()
    assert first[:3] == second[:3] == [there.address, "80", here.address]
    wait_for_no_flows(here, there)


def test_connect_times_out_when_nobody_answers(pair: Pair) -> None:
    here, there = pair
    there.netns.ip("link set eth0 down")
    assert run(here, """
        c = socket.socket()
        c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 500)
        print(error_of(lambda: c.connect((sys.argv[1], 80))))
    """, there.address) == "ETIMEDOUT"
    wait_for_no_flows(here)


def test_a_peer_that_vanishes(pair: Pair) -> None:
    here, there = pair
    server(there)
    program = start(here, """
        c = connected(sys.argv[1], 80)
        print(asked(c).decode(), flush=True)
        sys.stdin.readline()
        c.settimeout(None)
        c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 500)
        print(error_of(lambda: asked(c)))
    """, there.address)
    assert program.line() == "hello"
    there.netns.ip("link set eth0 down")
    program.say("go on")
    assert program.rest() == "ETIMEDOUT"
    wait_for_no_flows(here)


def test_a_connection_its_peer_has_forgotten_is_reset(pair: Pair) -> None:
    here, there = pair
    serving = server(there)
    program = start(here, """
        c = connected(sys.argv[1], 80)
        print(asked(c).decode(), flush=True)
        sys.stdin.readline()
        c.settimeout(20)
        print(error_of(lambda: asked(c)))
    """, there.address)
    assert program.line() == "hello"
    there.netns.ip("link set eth0 down")  # loses the FIN; the server's host gives up
    serving.end()
    there.netns.run("ss", "-K", "dport", "gt", ":0")
    there.netns.ip("link set eth0 up")
    there.machine.finish(there)  # the routes have gone with the link
    program.say("go on")
    assert program.rest() == "ECONNRESET"


def test_a_peer_whose_container_is_removed(pair: Pair) -> None:
    here, there = pair
    server(there)
    program = start(here, """
        c = connected(sys.argv[1], 80)
        print(asked(c).decode(), flush=True)
        sys.stdin.readline()
        c.settimeout(None)
        c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 500)
        print(error_of(lambda: asked(c)))
    """, there.address)
    assert program.line() == "hello"
    there.machine.disconnect(there, there.endpoints[0][0])
    program.say("go on")
    assert program.rest() in ("ECONNRESET", "ETIMEDOUT")
    wait_for_no_flows(here)


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close(pair: Pair, first: str) -> None:
    """One side stops sending; the other still sends a megabyte."""
    here, there = pair
    code = """
        def quiet(c):
            c.shutdown(socket.SHUT_WR)
            assert len(exactly(c, 1_000_000)) == 1_000_000
            assert c.recv(1) == b""
            print("all", flush=True)
        def going_on(c):
            assert c.recv(1) == b""
            c.sendall(bytes(1_000_000))
            c.close()
            print("all", flush=True)
    """
    here_does, there_does = ("quiet", "going_on")[::1 if first == "client" else -1]
    serving = started(there, code + f"""
        serve(listen("0.0.0.0", 80), {there_does})
    """)
    with best_path(here, there):
        assert run(here, code + f"""
        {here_does}(connected(sys.argv[1], 80))
        """, there.address) == "all"
        serving.line()
        assert serving.line() == "all"
    wait_for_no_flows(here, there)


def test_out_of_band_data(pair: Pair) -> None:
    here, there = pair
    started(there, """
        import select
        def handle(c):
            select.select([], [], [c], 5)
            urgent = c.recv(1, socket.MSG_OOB)
            rest = exactly(c, 4)
            c.send(rest + urgent, socket.MSG_OOB)
            c.recv(1)
        serve(listen("0.0.0.0", 80), handle)
    """)
    with best_path(here, there):
        assert run(here, """
            import select
            c = connected(sys.argv[1], 80)
            c.send(b"dataX", socket.MSG_OOB)
            select.select([], [], [c], 5)
            print(c.recv(1, socket.MSG_OOB).decode(), exactly(c, 4).decode())
        """, there.address) == "X data"


def test_fast_open(pair: Pair) -> None:
    here, there = pair
    there.netns.sysctl("ipv4.tcp_fastopen", 3)
    here.netns.sysctl("ipv4.tcp_fastopen", 3)
    seen = started(there, """
        server = listen("0.0.0.0", 80)
        server.setsockopt(socket.IPPROTO_TCP, 23, 16)
        serve(server)
    """)
    with best_path(here, there, connections=3):
        counts = run(here, """
            for _ in range(3):  # the first one gets the cookie
                c = socket.socket()
                assert c.sendto(b"hello", socket.MSG_FASTOPEN, (sys.argv[1], 80)) == 5
                assert exactly(c, 5) == b"hello"
                assert c.getpeername() == (sys.argv[1], 80)
                c.close()
            heads, values = [l.split() for l in open("/proc/net/netstat") if l.startswith("TcpExt")]
            print(dict(zip(heads, values))["TCPFastOpenActive"])
        """, there.address)
        for _ in range(3):
            assert seen.line().split()[:3] == [there.address, "80", here.address]
    assert counts == "2"  # the SYN has data beside the option
    wait_for_no_flows(here, there)


def test_an_mptcp_client_takes_the_overlay(pair: Pair) -> None:
    here, there = pair
    seen = server(there)
    with overlay(here, there, because="mptcp_client"):
        own = client(here, there.address, protocol=262).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]


def test_no_source_port_left_takes_the_overlay(across: Pair) -> None:
    here, there = across
    server(there)
    peer, _ = there.endpoints[0]
    table = here.machine.loaded.table("flows")
    own, _ = here.endpoints[0]
    from driver.datapath.loading.load import u16_be, u32_be

    leaf = table.Leaf()
    leaf.sandbox, leaf.state, leaf.port_be = here.netns.cookie, 2, u16_be(own.port)
    keys = [table.Key(u32_be(peer.underlay), u16_be(peer.port), u16_be(port))
            for port in range(32768, 61000)]
    for key in keys:
        table[key] = leaf
    try:
        with overlay(here, there, because="ports_busy"):
            client(here, there.address)
    finally:
        delete_all(table, (table.Key * len(keys))(*keys))
    assert flows(here) == 0


def test_a_peer_without_a_host_path_is_reached_over_the_overlay(across: Pair) -> None:
    here, there = across
    server(there)
    endpoint, _ = there.endpoints[0]
    here.machine.datapath.put_remote(dataclasses.replace(endpoint, port=0))
    try:
        with overlay(here, there, because="overlay_only"):
            client(here, there.address)
    finally:
        here.machine.datapath.put_remote(endpoint)


def test_a_peer_that_is_not_known_yet(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    with counted(here) as total:
        assert run(here, """
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            print(error_of(lambda: c.connect(("10.32.0.77", 80))))
        """) == "ETIMEDOUT"
    assert total["unknown_peer"] == 1
    assert total["unknown_destination"] >= 1
    assert set(total) == {"unknown_peer", "unknown_destination"}


def test_a_container_without_a_host_path_talks_over_the_overlay(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16", host_path=False)
    there = machines[1].container("10.32.0.3/16")
    server(there)
    with overlay(here, there):
        assert client(here, there.address).split()[2:] == [there.address, "80"]
    assert here.endpoints[0][0].address == IPv4Interface("10.32.0.2/16")
