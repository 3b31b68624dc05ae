"""Tests connections within one host: they go directly, with virtual addresses on their packets.

So rules inside a container see the addresses that their author wrote.
"""

from __future__ import annotations

import shutil

import pytest
from scapy.layers.inet import IP, TCP

from tests.netns.attacks.attack import Tap
from tests.netns.talk import (
    Program,
    best_path,
    client,
    counted,
    host_path,
    overlay,
    refuser,
    run,
    server,
    start,
    started,
)
from tests.support.world.machines import Cluster, Container, Machine

Pair = tuple[Container, Container]


@pytest.fixture
def two(machines: list[Machine]) -> Pair:
    """A client and a server on one host."""
    return machines[0].container("10.32.0.2/16"), machines[0].container("10.32.0.3/16")


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
def test_the_packets_have_virtual_addresses(two: Pair, mapped: str) -> None:
    here, there = two
    server(there)
    taps = Tap(here), Tap(there)
    with best_path(here, there):
        own = client(here, mapped + there.address).split()
    assert own == [mapped + here.address, own[1], mapped + there.address, "80"]
    for tap, source in zip(taps, (there, here), strict=True):
        packets = [frame for frame in tap.frames() if frame.haslayer(TCP)]
        assert len(packets) >= 3
        assert {frame[IP].src for frame in packets} == {source.address}
        # Neither our option nor an endpoint port: frames arrive as the peer sent them.
        assert {frame[TCP].dport if tap is taps[1] else frame[TCP].sport for frame in packets} == {
            80}
        assert not any(kind == 254 for frame in packets for kind, _ in frame[TCP].options)


def test_what_the_host_path_carries_still(two: Pair) -> None:
    """A socket that another host refused stays on the host path (`tied`, connect.c)."""
    here, there = two
    seen = server(there)
    refusing = refuser(here)
    with host_path(here, there):
        own = run(here, """
            c = connected_after_a_refusal(sys.argv[1], sys.argv[2], 80)
            assert asked(c) == b"hello"
            print(names(c))
        """, refusing, there.address).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]


_TALKING = """
    c = connected(sys.argv[1], 80, timeout_s=None)
    c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 800)
    print(names(c), flush=True)
    for _ in sys.stdin:
        print(error_of(lambda: asked(c)), flush=True)
"""


def _talking(here: Container, address: str) -> Program:
    program = start(here, _TALKING, address)
    assert program.line().split()[2] == address
    return program


def test_several_networks(machines: list[Machine]) -> None:
    """Each connection has its network's names; when one goes, the other's connections go on."""
    here = machines[0].container("10.32.0.2/16", "10.33.0.2/16")
    there = machines[0].container("10.32.0.3/16", "10.33.0.3/16")
    seen = server(there)
    with best_path(here, there, connections=2):
        for net in ("10.32.0.", "10.33.0."):
            own = client(here, net + "3").split()
            assert [own[0], *own[2:]] == [net + "2", net + "3", "80"]
            assert seen.line().split()[:3] == [net + "3", "80", net + "2"]
    first, second = _talking(here, "10.32.0.3"), _talking(here, "10.33.0.3")
    machines[0].disconnect(here, here.endpoints[0][0])  # the one that carries the host path
    assert second.ask() == "none"
    assert first.ask() != "none"
    with best_path(here, there):
        client(here, "10.33.0.3")
    machines[0].connect(here, "10.32.0.2/16", vni=1)
    with best_path(here, there):
        client(here, "10.32.0.3")
    assert second.ask() == "none"


def test_the_callee_leaves_a_network(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16", "10.33.0.2/16")
    there = machines[0].container("10.32.0.3/16", "10.33.0.3/16")
    server(there)
    first, second = _talking(here, "10.32.0.3"), _talking(here, "10.33.0.3")
    machines[0].disconnect(there, there.endpoints[0][0])
    assert second.ask() == "none"
    assert first.ask() != "none"
    machines[0].connect(there, "10.32.0.3/16", vni=1)
    with best_path(here, there):
        client(here, "10.32.0.3")


@pytest.mark.parametrize("back", [False, True])
def test_an_endpoint_comes_back_on_another_host(
        machines: list[Machine], back: bool) -> None:
    """It keeps its address; and a remote endpoint comes to this host.

    Old connections end with an error, since their peer is gone; new ones find the new place.
    """
    here = machines[0].container("10.32.0.2/16")
    old = machines[back].container("10.32.0.3/16")
    server(old)
    with best_path(here, old):
        kept = _talking(here, "10.32.0.3")
    machines[back].disconnect(old, old.endpoints[0][0])
    new = machines[not back].container("10.32.0.3/16")
    seen = server(new)
    assert kept.ask() in ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH")
    with best_path(here, new):
        client(here, "10.32.0.3")
    assert seen.line().split()[:3] == ["10.32.0.3", "80", here.address]


def test_a_service_moves_between_hosts(machines: list[Machine], cluster: Cluster) -> None:
    """An open connection goes on with its task; new ones go to the new task."""
    here = machines[0].container("10.32.0.2/16")
    tasks = machines[0].container("10.32.0.3/16"), machines[1].container("10.32.0.4/16")
    for task in tasks:
        server(task)
    with cluster.service("10.32.0.100", tasks[0].address) as change:
        kept = _talking(here, "10.32.0.100")
        for task in (tasks[1], tasks[0]):
            change(task.address)
            with best_path(here, task, also={"service_chosen"}):
                assert client(here, "10.32.0.100").split()[2] == "10.32.0.100"
            assert kept.ask() == "none"


def _iptables(container: Container, *rules: str) -> None:
    if shutil.which("iptables") is None:
        pytest.skip("iptables is missing")
    for rule in rules:
        container.run("iptables", *rule.split())


_ATTEMPT = """
    c = socket.socket()
    c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
    print(error_of(lambda: c.connect((sys.argv[1], 80))))
"""


def test_filters_by_virtual_address(two: Pair, machines: list[Machine]) -> None:
    """Deny lists and allow lists inside a container work."""
    here, there = two
    other = machines[0].container("10.32.0.4/16")
    server(there)
    _iptables(there, f"-A INPUT -s {here.address} -j DROP")
    assert run(here, _ATTEMPT, there.address) == "ETIMEDOUT"
    assert run(other, _ATTEMPT, there.address) == "none"
    _iptables(there, "-F INPUT", f"-A INPUT -s {here.address} -j ACCEPT", "-A INPUT -j DROP")
    assert run(here, _ATTEMPT, there.address) == "none"
    assert run(other, _ATTEMPT, there.address) == "ETIMEDOUT"


def test_a_side_car_that_takes_all_tcp(two: Pair) -> None:
    """SO_ORIGINAL_DST tells it whom its client called."""
    here, there = two
    _iptables(there, "-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15001")
    seen = started(there, """
        server = listen("0.0.0.0", 15001)
        ready()
        while True:
            c, _ = server.accept()
            port, address = struct.unpack("!2xH4s8x", c.getsockopt(socket.IPPROTO_IP, 80, 16))
            print(socket.inet_ntoa(address), port, c.getpeername()[0], flush=True)
            echo(c)
    """)
    for port in (80, 8080):
        with best_path(here, there):
            assert client(here, there.address, port).split()[2:] == [there.address, str(port)]
        assert seen.line() == f"{there.address} {port} {here.address}"


@pytest.mark.parametrize(("servers", "clients", "said"), [
    ("secret", "secret", "none"), ("secret", "wrong", "ETIMEDOUT"), ("secret", "", "ETIMEDOUT"),
    ("", "secret", "ETIMEDOUT")])
def test_keys_of_tcp_md5(two: Pair, servers: str, clients: str, said: str) -> None:
    """As BGP uses it (RFC 2385), a key is for the addresses on the packets."""
    here, there = two
    code = """
        def with_key(s, peer, key):
            if key:
                s.setsockopt(socket.IPPROTO_TCP, 14, struct.pack(
                    "=HH4s120xBBHi80s", socket.AF_INET, 0, socket.inet_aton(peer), 0, 0, len(key),
                    0, key.encode()))
            return s
    """
    started(there, code + """
        server = with_key(listen("0.0.0.0", 80), sys.argv[1], sys.argv[2])
        serve(server)
    """, here.address, servers)
    with counted(here, there) as total:
        assert run(here, code + """
        c = with_key(socket.socket(), sys.argv[1], sys.argv[2])
        c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 500)
        print(error_of(lambda: (c.connect((sys.argv[1], 80)), asked(c))))
        """, there.address, clients) == said
    assert total["local"] == 1
    assert not set(total) & {"connected", "accepted"}


# The rules that dockerd makes in a container on a network with Docker's DNS.
_DOCKERS_RULES = (
    "-t nat -A OUTPUT -d 127.0.0.11 -p udp --dport 53 -j DNAT --to-destination 127.0.0.11:40001",
    "-t nat -A POSTROUTING -s 127.0.0.11 -p udp --sport 40001 -j SNAT --to-source :53")


def test_an_mptcp_listener_beside_dockers_rules(two: Pair) -> None:
    """MPTCP is the default of Go programs; conntrack and NAT are on in the container."""
    here, there = two
    _iptables(there, *_DOCKERS_RULES)
    seen = server(there, protocol=262)
    with best_path(here, there, connections=20):
        run(here, """
            for _ in range(20):
                c = connected(sys.argv[1], 80)
                assert asked(c) == b"hello"
                c.close()
        """, there.address)
    assert seen.line().split()[:3] == [there.address, "80", here.address]


_SIMULTANEOUS = """
    import time
    c = socket.socket()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    c.bind((sys.argv[2], 5555))
    deadline = time.monotonic() + 20
    print("ready", flush=True)
    sys.stdin.readline()
    while (error := error_of(lambda: c.connect((sys.argv[1], 5555)))) == "ECONNREFUSED":
        assert time.monotonic() < deadline, error
    print(error, asked(c).decode() if error == "none" else "", flush=True)
"""


@pytest.mark.parametrize("bound", ["", "own address"])
def test_both_connect_at_once(pair: Pair, bound: str) -> None:
    """With virtual addresses on the packets a simultaneous open works, as on any network.

    On the host path it cannot work, since a SYN is for a listener of the endpoint.  There programs
    must bind to their virtual address (the overlay path); else they get "connection refused".
    """
    here, there = pair
    if here.machine is not there.machine and not bound:
        with counted(here, there) as total:
            assert run(here, """
                c = socket.socket()
                c.bind(("", 5555))
                print(error_of(lambda: c.connect((sys.argv[1], 5555))))
            """, there.address) == "ECONNREFUSED"
        assert total == {"no_listener": 1}
        return
    here.netns.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j",
                   "DROP")
    there.netns.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j",
                    "DROP")
    both = [start(one, _SIMULTANEOUS, other.address, one.address if bound else "")
            for one, other in ((here, there), (there, here))]
    with overlay(here, there):
        for program in both:
            assert program.line() == "ready"
        for program in both:
            program.say("now")
        assert [program.rest() for program in both] == ["none hello", "none hello"]
