"""Tests that connect() to an endpoint on a host known to be gone fails at once."""

from __future__ import annotations

import pytest

from driver.datapath.loading import bpf
from driver.datapath.tables.dead_hosts import DeadHosts
from tests.netns.talk import best_path, client, counted, host_path, run, server, started
from tests.support.world.machines import Machine

ATTEMPTS = {
    "plain": "socket.socket()",
    "IPv4-mapped": "socket.socket(socket.AF_INET6)",
    "bound to a port": "bound(socket.socket())",
    "non-blocking": "unblocked(socket.socket())",
}


@pytest.fixture
def pair(machines: list[Machine]) -> tuple[Machine, Machine]:
    return machines[0], machines[1]


@pytest.mark.parametrize("kind", ATTEMPTS)
def test_connect_fails_at_once(pair: tuple[Machine, Machine], kind: str) -> None:
    here, there = pair
    a, b = here.container("10.32.0.2/16"), there.container("10.32.0.3/16")
    neighbour = here.container("10.32.0.4/16")
    server(b)
    server(neighbour)
    address = f"::ffff:{b.address}" if kind == "IPv4-mapped" else b.address
    here.datapath.refuse_hosts([there.underlay])
    try:
        with counted(a) as grown:
            said = run(a, f"""
                def bound(s):
                    s.bind(("", 5555))
                    return s
                def unblocked(s):
                    s.setblocking(False)
                    return s
                print(error_of(lambda: {ATTEMPTS[kind]}.connect(({address!r}, 80))))
            """)
        assert said == "EHOSTUNREACH"
        assert grown == {"host_dead": 1}
        with best_path(a, neighbour):
            client(a, neighbour.address)
    finally:
        here.datapath.refuse_hosts([])
    with host_path(a, b):
        client(a, b.address)


def test_open_connections_are_left_alone(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    a, b = here.container("10.32.0.2/16"), there.container("10.32.0.3/16")
    server(b)
    calling = started(a, """
        c = connected(sys.argv[1], 80)
        assert asked(c) == b"hello"
        print("ready", flush=True)
        input()
        assert asked(c) == b"hello"
    """, b.address)
    here.datapath.refuse_hosts([there.underlay])
    try:
        calling.say("again")
        calling.rest()
    finally:
        here.datapath.refuse_hosts([])


def test_without_the_driver_it_ends_by_itself(pair: tuple[Machine, Machine]) -> None:
    here, there = pair
    a, b = here.container("10.32.0.2/16"), there.container("10.32.0.3/16")
    server(b)
    # As a driver that was killed long ago would have left it.
    DeadHosts(here.loaded, now_ns=lambda: 0).refuse([there.underlay])
    assert len(list(bpf.entries(here.loaded.table("dead_hosts")))) == 1
    try:
        with host_path(a, b):
            client(a, b.address)
    finally:
        here.datapath.refuse_hosts([])
