"""Tests floods of connections, half-open ones and SYNs: neighbours' connections must survive.

The driver limits each sandbox's share of the flow map.  It remembers accepted SYNs in a map that
forgets the oldest.  The tests assert no rates, only that neighbours' connections live and that new
ones work.
"""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from ipaddress import IPv4Address

import pytest

from driver.datapath.loading import bpf
from tests.netns.attacks.attack import (
    Victim,
    connected_victim,
    endpoint,
    frame,
    mac,
    quiet_server,
    segment,
    syn_option,
    victim,
)
from tests.netns.talk import (
    RELEASE_S,
    Program,
    best_path,
    client,
    counted,
    host_path,
    run,
    server,
    started,
)
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster, Container, Machine
from tests.support.world.maps import enter_all

FLOWS = 262144  # SLIM_FLOWS
Pair = tuple[Container, Container]


def _shares(machine: Machine) -> dict[int, int]:
    return {int(key): int(leaf) for key, leaf in bpf.entries(machine.loaded.table("shares"))
            if int(leaf)}


def _counted_flows(machine: Machine) -> dict[int, int]:
    counts = Counter(int(flow.sandbox) for _, flow in machine.flows())  # type: ignore[misc]
    return {**counts, 0: counts.total()} if counts else {}


def _set_share(container: Container, count: int) -> None:
    """Pretend that the container has so many connections."""
    table = container.machine.loaded.table("shares")
    for key in (container.netns.cookie, 0):
        table[table.Key(key)] = table.Leaf(count)


def test_the_shares_are_what_there_is(pair: Pair) -> None:
    """A share equals the flows, however connections end: by either side, a reset, a refusal."""
    here, there = pair
    quiet_server(there)
    started(there, """
        def close_first(connection):
            connection.recv(1)
            connection.close()
        serve(listen("0.0.0.0", 81), close_first)
    """)
    held = connected_victim(here, there)
    run(here, """
        address = sys.argv[1]
        for _ in range(20):
            connected(address, 80).close()
            c = connected(address, 80); reset_on_close(c); c.close()
            c = connected(address, 81); c.send(b"x"); c.recv(1); c.close()
            error_of(lambda: connected(address, 82))
            s = socket.socket(); s.setblocking(False); error_of(lambda: s.connect((address, 80)))
            s.close()
            c = connected(address, 80, bind=("0.0.0.0", 45000)); reset_on_close(c); c.close()
    """, there.address)
    for machine in {id(m): m for m in (here.machine, there.machine)}.values():
        wait_until(lambda m=machine: _shares(m) == _counted_flows(m), RELEASE_S,
                   "equal counts")
        assert _shares(machine)[0] > 0

        def counted_anew(machine: Machine = machine) -> bool:
            machine.datapath.sweep_flows()
            return _shares(machine) == _counted_flows(machine)

        # A sweep miscounts sockets that end meanwhile; the next one corrects that.
        wait_until(counted_anew, 30, "equal counts after a sweep")
    assert held.lives()


def test_who_has_all_that_is_free_gets_no_more(across: Pair) -> None:
    """Its new connections take the overlay path; a neighbour's do not."""
    here, there = across
    neighbour = here.machine.container("10.32.0.5/16")
    server(there)
    held = connected_victim(here, there)
    _set_share(here, FLOWS // 2)
    with counted(here, there) as total:
        client(here, there.address)
    assert total.pop("share_used") == 1
    assert "connected" not in total
    with host_path(neighbour, there):
        client(neighbour, there.address)
    with counted(here, there) as total:  # the client chooses its port
        client(here, there.address, bind=("0.0.0.0", 45001))
    assert total["share_used"] == 1
    _set_share(here, FLOWS // 2 - 2)  # two fewer leave room for one
    with host_path(here, there):
        client(here, there.address)
    _set_share(here, FLOWS // 2)
    here.machine.datapath.sweep_flows()  # counts anew
    with host_path(here, there):
        client(here, there.address)
    assert held.lives()


def test_a_server_with_its_share_still_accepts(machines: list[Machine]) -> None:
    """Its connections live on their remembered SYNs; other containers' servers do not notice."""
    here, there, other = (machines[0].container("10.32.0.2/16"),
                          machines[1].container("10.32.0.3/16"),
                          machines[1].container("10.32.0.4/16"))
    server(there)
    server(other)
    _set_share(there, FLOWS // 2)
    with counted(here, there) as total:
        held = connected_victim(here, there)
        assert held.lives()
    assert total == {"connected": 1, "flow_table_full": 1}
    with host_path(here, other):
        client(here, other.address)


_HALF_OPEN = """
    ready()
    sys.stdin.readline()
    for n in range(int(sys.argv[2])):
        s = socket.socket()
        s.setblocking(False)
        error_of(lambda: s.connect((sys.argv[1], 80)))
        s.close()
    print("done", flush=True)
"""
_CHURN = """
    ready()
    sys.stdin.readline()
    for n in range(int(sys.argv[2])):
        c = connected(sys.argv[1], 80, timeout_s=20)
        c.close()
    print("done", flush=True)
"""


@pytest.mark.parametrize(("code", "count"), [(_HALF_OPEN, 8000), (_CHURN, 1500)],
                         ids=["half-open", "closed at once"])
def test_a_container_floods_its_neighbours_server(pair: Pair, code: str, count: int) -> None:
    """The flood comes from another container on the client's host."""
    here, there = pair
    flooder = here.machine.container("10.32.0.5/16")
    held = victim(here, there)
    program: Program = started(flooder, code, there.address, count)
    program.say("go")
    other = here.machine.container("10.32.0.6/16"), there.machine.container("10.32.0.7/16")
    quiet_server(other[1], 81)
    for _ in range(5):
        assert held.lives()
        client(other[0], other[1].address, 81)
    assert program.line() == "done"
    assert held.lives()
    client(here, there.address)


def _spray(frames: list[bytes], count: int, interface: str = "eth0") -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for number in range(count):
            raw.send(frames[number % len(frames)])


def test_syns_of_a_containers_own_connections(pair: Pair) -> None:
    """With CAP_NET_RAW, SYNs of its own flows pass, and take nothing from others."""
    here, there = pair
    flooder = here.machine.container("10.32.0.5/16")
    held = victim(here, there)
    mine = [connected_victim(flooder, there) for _ in range(3)]
    to, caller = endpoint(there), endpoint(flooder).port
    frames = [bytes(frame(segment(str(flooder.machine.underlay), one.port, str(to.underlay),
                                  to.port, options=syn_option(port, caller))))
              for one in mine for port in (80, 81, 1, 65535)]
    flooder.netns.call(lambda: _spray(frames, 20000))
    assert held.lives()
    with best_path(here, there):
        client(here, there.address)
    assert all(one.lives() for one in mine)  # Linux answers a SYN on a live connection with an ACK


def test_syns_from_the_underlay(machines: list[Machine], cluster: Cluster) -> None:
    """None of them is remembered."""
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    held = victim(here, there)
    to, caller = endpoint(there), endpoint(here).port
    target = mac(machines[1].netns)
    sources = [str(IPv4Address("198.18.77.128") + n) for n in range(60)]
    frames = [bytes(frame(segment(source, 1024 + n, str(to.underlay), to.port, options=options),
                          destination=target))
              for n, source in enumerate(sources)
              for options in ([], syn_option(80, caller), [(254, secrets.token_bytes(6))])]
    pending = machines[1].loaded.table("pending")
    before = len(pending)
    refused = _refused(machines[1])
    with counted(there) as total:
        cluster.wire.call(lambda: _spray(frames, 18000, "br0"))
        wait_until(lambda: _refused(machines[1]) == refused + 18000, 30, "all of them")
        assert held.lives()
    assert set(total) == {"syn_no_option", "syn_unknown_caller"}
    assert len(pending) == before
    with host_path(here, there):
        client(here, there.address)


def _refused(machine: Machine) -> int:
    counters = machine.counters()
    return counters["syn_no_option"] + counters["syn_unknown_caller"]


def test_more_syns_than_are_remembered(pair: Pair) -> None:
    """Live connections do not need that map, and new ones need it for one round trip."""
    here, there = pair
    held = victim(here, there)
    table = there.machine.loaded.table("pending")
    size = 65536
    keys, leaves = (table.Key * size)(), (table.Leaf * size)()
    for number in range(size):
        keys[number].peer_be = number + 1
    enter_all(table, keys, leaves)
    enter_all(table, keys, leaves)
    assert held.lives()
    with best_path(here, there):
        client(here, there.address)
    for key, _ in list(bpf.entries(table)):
        if not key.local_port_be:
            del table[key]


def test_victims(pair: Pair) -> None:
    """The other tests rely on Victim: it must notice a connection that is cut."""
    held: Victim = victim(*pair)
    assert held.lives()
    held.there.machine.clear()
    held.program.say("still here?")
    assert held.program.line() != "True"
