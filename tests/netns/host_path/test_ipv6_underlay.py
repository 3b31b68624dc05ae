"""Tests the host path of IPv6 sockets between hosts whose network has IPv6 only."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from driver.datapath.tables.host_paths import BlockedHosts
from driver.datapath.tables.withheld import WithheldMaps
from driver.services.ports import Reply, Why
from tests.netns.overlay.test_ipv6_underlay import HERE6, THERE6, Pair, cluster6, machines6, pair
from tests.netns.talk import (
    best_path,
    client,
    counted,
    flows,
    host_path,
    overlay,
    run,
    server,
    start,
    started,
    wait_for_no_flows,
)
from tests.netns.underlay.test_probes import reply
from tests.support.world.machines import Cluster, Machine
from tests.support.world.netns import require_root

__all__ = ["cluster6", "machines6", "pair"]

_V6ONLY = """
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::", 80))
    server.listen()
    serve(server)
"""
_TRANSFER = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6)
    data = os.urandom(5_000_000)
    threading.Thread(target=c.sendall, args=(data,)).start()
    print(exactly(c, len(data)) == data)
"""


@pytest.mark.parametrize("address", ["::", THERE6])
def test_both_ends_see_ipv6_names(pair: Pair, address: str) -> None:
    here, there = pair
    seen = server(there, address=address)
    with host_path(here, there):
        own = client(here, THERE6).split()
    assert own == [HERE6, own[1], THERE6, "80"]
    assert seen.line().split() == [THERE6, "80", HERE6, own[1]]
    wait_for_no_flows(here, there)


def test_on_one_host(machines6: list[Machine]) -> None:
    here, there = (machines6[0].container(f"10.32.0.{n}/16", address6=f"fd00:32::{n}/64")
                   for n in (2, 3))
    server(there, address="::")
    with best_path(here, there):
        client(here, THERE6)


def test_sockets_for_ipv6_alone(pair: Pair) -> None:
    """On the wire is IPv6: neither the client nor the listener need take IPv4."""
    here, there = pair
    started(there, _V6ONLY)
    with host_path(here, there, connections=2):
        for _ in range(2):  # the second finds the listener in the map
            assert run(here, """
                c = socket.socket(socket.AF_INET6)
                c.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                c.connect((sys.argv[1], 80))
                print(asked(c).decode(), *c.getpeername()[:2])
            """, THERE6) == f"hello {THERE6} 80"


@pytest.mark.parametrize("listener", ["0.0.0.0", "::"])
@pytest.mark.parametrize("mapped", [False, True])
def test_ipv4_addresses_take_the_overlay(pair: Pair, listener: str, mapped: bool) -> None:
    """A listener for IPv4 could take no packet of IPv6, and nobody knows which kind listens."""
    here, there = pair
    server(there, address=listener)
    target = f"::ffff:{there.address}" if mapped else there.address
    with overlay(here, there, because="ipv6_underlay"):
        assert client(here, target).split()[2:] == [target, "80"]


def test_a_listener_of_the_other_family_is_not_called(pair: Pair) -> None:
    """At the same port there is one for IPv4 only: refused, as on any network."""
    here, there = pair
    server(there, address="0.0.0.0")
    with counted(here, there) as total:
        assert run(here, """
            print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
        """, THERE6) == "ECONNREFUSED"
    assert total == {"no_listener": 1}


@pytest.mark.parametrize(("bind", "reason"), [
    (("::", 0), "ipv6_only"), (("::", 5555), "ipv6_only"), (("::", 61500), "bound_port"),
    ((HERE6, 0), "bound_address"), ((HERE6, 5555), "bound_address")])
def test_a_bound_client_takes_the_overlay(pair: Pair, bind: tuple[str, int], reason: str) -> None:
    here, there = pair
    seen = server(there, address="::")
    with overlay(here, there, because=reason):
        own = client(here, THERE6, bind=bind).split()
    assert [own[0], *own[2:]] == [HERE6, THERE6, "80"]
    assert seen.line().split() == [THERE6, "80", HERE6, own[1]]


@pytest.mark.parametrize("again", ["same", "other", "outside"])
def test_connect_again_on_a_refused_socket(pair: Pair, again: str) -> None:
    here, there = pair
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


def test_transfers_of_both_directions(pair: Pair) -> None:
    here, there = pair
    server(there, address="::")
    with host_path(here, there):
        assert run(here, _TRANSFER, THERE6) == "True"


def test_many_connections_at_once(pair: Pair) -> None:
    here, there = pair
    server(there, address="::")
    with host_path(here, there, connections=200):
        assert run(here, """
            made = [connected(sys.argv[1], 80, family=socket.AF_INET6) for _ in range(200)]
            print(sum(asked(c, b"%d" % n) == b"%d" % n for n, c in enumerate(made)))
        """, THERE6) == "200"
    wait_for_no_flows(here, there)


def test_what_is_on_the_wire(cluster6: Cluster, pair: Pair) -> None:
    """Plain TCP between the two hosts' addresses, to the endpoint port."""
    here, there = pair
    server(there, address="::")
    raw = cluster6.wire.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                   socket.htons(3)))  # ETH_P_ALL
    try:
        raw.bind(("p1", 0))
        raw.settimeout(10)
        with host_path(here, there):
            client(here, THERE6)
        while not (packet := Ether(raw.recv(65535))).haslayer(TCP):
            pass
    finally:
        raw.close()
    assert (packet[IPv6].src, packet[IPv6].dst, packet[TCP].dport, packet[TCP].flags) == (
        str(here.machine.underlay), str(there.machine.underlay), there.endpoints[0][0].port, "S")
    assert any(kind == 254 for kind, _ in packet[TCP].options)


def test_a_router_between_the_hosts() -> None:
    """Also one that carries less: its ICMPv6 errors are handed to the container."""
    require_root()
    with ExitStack() as stack:
        cluster = Cluster(stack, over_ipv6=True)
        here, there = (cluster.add_machine(subnet).container(
            f"10.32.0.{n}/16", address6=f"fd00:32::{n}/64")
            for n, subnet in enumerate((77, 78), 2))
        server(there, address="::")
        with host_path(here, there):
            assert client(here, THERE6).split()[2:] == [THERE6, "80"]
        cluster.wire.ip("link set br1 mtu 1300")
        with host_path(here, there):
            assert run(here, _TRANSFER, THERE6) == "True"
        assert "mtu 1300" in here.netns.ip(
            f"-6 route get {there.machine.underlay} from {here.machine.underlay}")


def test_a_host_that_is_blocked(pair: Pair) -> None:
    here, there = pair
    server(there, address="::")
    blocked = BlockedHosts(here.machine.loaded)
    blocked.block([there.machine.underlay])
    try:
        assert blocked.blocked() == {there.machine.underlay}
        with overlay(here, there, because="peer_blocked"):
            client(here, THERE6)
    finally:
        blocked.block([])


def test_a_host_that_is_gone(pair: Pair) -> None:
    here, there = pair
    here.machine.datapath.refuse_hosts([there.machine.underlay])
    try:
        with counted(here) as total:
            assert run(here, """
                print(error_of(lambda: connected(sys.argv[1], 80, family=socket.AF_INET6)))
            """, THERE6) == "EHOSTUNREACH"
    finally:
        here.machine.datapath.refuse_hosts([])
    assert total == {"host_dead": 1}


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_container_that_is_kept_off(pair: Pair, side: str) -> None:
    here, there = pair
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
    assert total["syn_withheld"] >= 1  # told before connect() had begun to wait: once more


def test_a_setting_that_is_switched_off_inside(pair: Pair) -> None:
    """The overlay carries connections until it is back."""
    here, there = pair
    server(there, address="::")
    here.netns.sysctl("ipv6.ip_nonlocal_bind", 0)
    with overlay(here, there, because="routing_lost"):
        client(here, THERE6)
    here.machine.finish(here)
    with host_path(here, there):
        client(here, THERE6)


def test_a_peer_without_a_host_path(machines6: list[Machine]) -> None:
    here = machines6[0].container("10.32.0.2/16", address6=f"{HERE6}/64")
    there = machines6[1].container()
    machines6[1].connect(there, "10.32.0.3/16", address6=f"{THERE6}/64", takes_ipv6=False)
    server(there, address="::")
    with overlay(here, there, because="overlay_only"):
        assert client(here, THERE6).split()[2:] == [THERE6, "80"]


def test_an_mptcp_listener_and_client(pair: Pair) -> None:
    here, there = pair
    started(there, "serve(listen('::', 80, family=socket.AF_INET6, protocol=MPTCP))")
    with host_path(here, there, also={"listener_assigned"}) as total:
        assert client(here, THERE6).split()[2:] == [THERE6, "80"]
    assert total["listener_assigned"] >= 1
    with overlay(here, there, because="mptcp_client"):
        client(here, THERE6, protocol=262)


def test_the_next_connection_of_the_same_tuple(pair: Pair) -> None:
    """TIME_WAIT is taken over, at the client's side and at the server's."""
    here, there = pair
    started(there, """
        server = listen("::", 80, family=socket.AF_INET6)
        ready()
        while True:
            server.accept()[0].close()
    """)
    with host_path(here, there, connections=2):
        assert run(here, """
            c = connected(sys.argv[1], 80, family=socket.AF_INET6)
            port = c.getsockname()[1]
            assert c.recv(1) == b""
            c.close()
            c = connected(sys.argv[1], 80, family=socket.AF_INET6)
            assert c.recv(1) == b""
            print("done")
        """, THERE6) == "done"


def test_a_reset(pair: Pair) -> None:
    here, there = pair
    started(there, """
        server = listen("::", 80, family=socket.AF_INET6)
        ready()
        while True:
            c, _ = server.accept()
            c.recv(5)
            reset_on_close(c)
            c.close()
    """)
    with host_path(here, there):
        assert run(here, """
            c = connected(sys.argv[1], 80, family=socket.AF_INET6)
            c.sendall(b"hello")
            print(error_of(lambda: c.recv(1)))
        """, THERE6) == "ECONNRESET"
    wait_for_no_flows(here, there)


def test_flows_that_lost_their_socket(pair: Pair) -> None:
    """The sweeper asks for sockets of IPv6: those that are open stay."""
    here, there = pair
    server(there, address="::")
    program = start(here, """
        c = connected(sys.argv[1], 80, family=socket.AF_INET6)
        print(asked(c).decode(), flush=True)
        for _ in sys.stdin:
            print(asked(c).decode(), flush=True)
    """, THERE6)
    assert program.line() == "hello"
    table = here.machine.loaded.table("flows")
    (key, flow), = ((key, flow) for key, flow in here.machine.flows() if flow.state == 2)
    lost = table.Key(key.peer_be, key.peer_port_be, socket.htons(4))
    table[lost] = flow
    for machine in (here.machine, there.machine):
        machine.datapath.sweep_lost_flows(older_ns=0)
    assert table.get(lost) is None
    assert flows(here) == flows(there) == 1
    assert program.ask() == "hello"


def test_the_container_shows_no_address_of_its_host(pair: Pair) -> None:
    for container in pair:
        assert "fd00:198" not in container.netns.ip("-6 addr show")
        assert run(container, """
            c = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            c.connect(("fd00:32::9", 9))
            print(c.getsockname()[0])
        """) in (HERE6, THERE6)


def test_probes(pair: Pair) -> None:
    """Answered with a proof, whatever the endpoint's container does; nothing counts."""
    here, there = pair
    there.netns.run("nft", "table inet own { chain in { type filter hook input priority 0; "
                           "policy drop; }\n}")
    with counted(here, there) as total:
        assert reply(here, there) is reply(there, here) is Reply.PROVEN
    assert total == {}
    there.machine.netns.run("nft", "table inet own { chain in { type filter hook input priority 0;"
                                   " policy drop; }\n}")
    assert reply(here, there) is Reply.PROVEN
    assert reply(here, there, port=22, wait_s=0.3) is Reply.NONE


@pytest.mark.parametrize("kind", ["plain", "MPTCP"])
def test_syn_cookies(pair: Pair, kind: str) -> None:
    """The ACK finds the listener again, as the SYN did."""
    here, there = pair
    there.netns.sysctl("ipv4.tcp_syncookies", 2)  # always
    protocol = "MPTCP" if kind == "MPTCP" else "0"
    started(there, f"serve(listen('::', 80, family=socket.AF_INET6, protocol={protocol}))")
    with host_path(here, there, connections=3, also={"listener_assigned"}):
        for _ in range(3):
            assert client(here, THERE6).split()[2:] == [THERE6, "80"]
