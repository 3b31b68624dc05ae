"""Tests clients bound to a port in the endpoint ports' range: answers to it go to an endpoint."""

from __future__ import annotations

import pytest

from tests.netns.attacks.attack import Tap
from tests.netns.talk import best_path, client, counted, host_path, overlay, run, server, start
from tests.support.world.machines import PORT_FIRST, PORT_LAST, Container, Machine

Pair = tuple[Container, Container]
PORTS = (PORT_FIRST, 61005, 62000, PORT_LAST)


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
@pytest.mark.parametrize("port", PORTS)
def test_a_client_bound_to_an_endpoints_port(pair: Pair, port: int, mapped: str) -> None:
    here, there = pair
    seen = server(there)
    with overlay(here, there, because="bound_port"):
        own = client(here, mapped + there.address, bind=("::" if mapped else "", port)).split()
    assert own == [mapped + here.address, str(port), mapped + there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, str(port)]


def test_ports_beside_the_range_take_the_host_path(across: Pair) -> None:
    here, there = across
    server(there)
    with host_path(here, there):
        assert client(here, there.address, bind=("", PORT_FIRST - 1)).split()[1] == str(
            PORT_FIRST - 1)


def test_the_containers_own_port_and_a_neighbours(machines: list[Machine]) -> None:
    """An answer to a client at port P must not be taken for a packet to the endpoint of P."""
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    neighbour = machines[0].container("10.32.0.4/16")
    server(there)
    for owner in (here, neighbour):
        port = owner.endpoints[0][0].port
        tap = Tap(neighbour)
        with overlay(here, there, because="bound_port"):
            assert client(here, there.address, bind=("", port)).split()[1] == str(port)
        assert not tap.frames()


def test_the_kernels_choice_from_a_range_that_holds_both(across: Pair) -> None:
    """After `bind(("", 0))`, ports inside the range take the overlay path, others the host path."""
    here, there = across
    here.netns.sysctl("ipv4.ip_local_port_range", f"{PORT_FIRST - 60} {PORT_FIRST + 59}")
    server(there)
    with counted(here, there) as total:
        ports = [int(port) for port in run(here, """
            held = [connected(sys.argv[1], 80, bind=("", 0)) for _ in range(80)]
            for c in held:
                assert asked(c) == b"hello"
                print(c.getsockname()[1])
        """, there.address).split()]
    inside = sum(port >= PORT_FIRST for port in ports)
    assert 20 <= inside <= 60, "80 of 120 ports, of which half are inside"
    assert total["bound_port"] == inside
    assert total["connected"] == total["accepted"] == 80 - inside


def test_datagrams_from_such_a_port(pair: Pair) -> None:
    here, there = pair
    answering = start(there, """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 53))
        ready()
        while True:
            data, peer = s.recvfrom(100)
            s.sendto(data, peer)
    """)
    assert answering.line() == "ready"
    with counted(here, there) as total:
        run(here, """
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind(("", 61005))
            s.settimeout(5)
            s.connect((sys.argv[1], 53))
            s.send(b"hello")
            assert s.recv(100) == b"hello"
        """, there.address)
    assert "bound_port" not in total


def test_two_containers_of_a_host_bound_to_one_port(across: Pair) -> None:
    """To one peer both would have the same tuple, so the second takes the overlay path."""
    here, there = across
    neighbour = here.machine.container("10.32.0.4/16")
    server(there)
    held = start(here, """
        c = connected(sys.argv[1], 80, bind=("", 5555))
        print(asked(c).decode(), flush=True)
        sys.stdin.readline()
        assert asked(c) == b"hello"
    """, there.address)
    assert held.line() == "hello"
    with overlay(neighbour, there, because="flow_refused"):
        assert client(neighbour, there.address, bind=("", 5555)).split()[1] == "5555"
    held.say("go on")
    held.rest()


_AGAIN = """
    c = socket.socket()
    if sys.argv[3] != "0":
        c.bind(("", int(sys.argv[3])))
    assert error_of(lambda: c.connect((sys.argv[1], 1))) == "ECONNREFUSED"
    c.connect((sys.argv[2], 80))
    assert asked(c) == b"hello"
    print(names(c))
"""


@pytest.mark.parametrize("port", [0, 5555, 61005])
@pytest.mark.parametrize("first", ["two hosts", "one host"])
@pytest.mark.parametrize("then", ["two hosts", "one host"])
def test_a_socket_that_was_refused_connects_elsewhere(machines: list[Machine], first: str,
                                                      then: str, port: int) -> None:
    """Each path of its first connect() meets each path of the second."""
    here = machines[0].container("10.32.0.2/16")
    refusing = machines[first == "two hosts"].container("10.32.0.3/16")
    there = machines[then == "two hosts"].container("10.32.0.4/16")
    seen = server(there)
    with counted(here, refusing, there) as total:
        own = run(here, _AGAIN, refusing.address, there.address, port).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert not port or own[1] == str(port)
    assert seen.line().split() == [there.address, "80", here.address, own[1]]
    # A socket that the host path has refused stays on it, bound to the host's address.  But if
    # the program has chosen the port, nothing is left of the first attempt.
    tied = first == "two hosts" and not port
    on_host_path = tied or (then == "two hosts" and port != 61005)
    assert total.get("connected", 0) == total.get("accepted", 0) == on_host_path
    assert "reconnect_refused" not in total


def test_a_neighbour_that_takes_none_on_the_host_path_refuses_a_tied_socket_at_once(
        machines: list[Machine]) -> None:
    """It gets an error and no time-out, though the directory still lacks the verdict."""
    from driver.datapath.code.reasons import read_reasons

    here, there = (machines[0].container(f"10.32.0.{n}/16") for n in (2, 3))
    refusing = machines[1].container("10.32.0.4/16")
    server(there)
    withheld = machines[0].loaded.table("withheld")
    key = withheld.Key(there.netns.cookie)
    withheld[key] = withheld.Leaf([reason.name for reason in read_reasons()].index("own_rules"))
    try:
        with counted(here, there) as total:
            assert run(here, """
                c = socket.socket()
                assert error_of(lambda: c.connect((sys.argv[1], 1))) == "ECONNREFUSED"
                print(error_of(lambda: c.connect((sys.argv[2], 80))))
            """, refusing.address, there.address) == "EHOSTUNREACH"
        # The kernel ignores an answer while connect() holds the socket; the next one comes a
        # second later.
        assert 1 <= total["syn_withheld"] <= 2
        with best_path(here, there):
            client(here, there.address)
    finally:
        del withheld[key]
