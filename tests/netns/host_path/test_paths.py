"""Tests the rows of docs/paths.md that have no file of their own."""

from __future__ import annotations

import pytest

from tests.netns.talk import client, counted, host_path, overlay, run, server, start, started
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]


@pytest.fixture
def across(machines: list[Machine]) -> Pair:
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


def test_tcp_on_one_host(machines: list[Machine]) -> None:
    here, there = machines[0].container("10.32.0.2/16"), machines[0].container("10.32.0.3/16")
    seen = server(there)
    with overlay(here, there, because="local") as total:
        own = client(here, there.address).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]
    assert set(total) == {"local", "overlay_local"}


@pytest.mark.parametrize("how", ["an address", "an address, its port later", "transparent"])
def test_a_client_that_is_bound_to_its_own_address(across: Pair, how: str) -> None:
    """It takes the overlay path, also with IP_BIND_ADDRESS_NO_PORT or IP_TRANSPARENT."""
    here, there = across
    seen = server(there)
    with overlay(here, there, because="bound_address"):
        own = run(here, """
            how, own, peer = sys.argv[1:]
            c = socket.socket()
            if how == "an address, its port later":
                c.setsockopt(socket.IPPROTO_IP, 24, 1)
            if how == "transparent":
                c.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            c.bind((own, 0))
            c.connect((peer, 80))
            assert asked(c) == b"hello"
            print(names(c))
        """, how, here.address, there.address).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]


def test_a_proxy_that_speaks_in_its_clients_name(across: Pair) -> None:
    """With IP_TRANSPARENT it takes another address, but an endpoint may send only from its own."""
    here, there = across
    server(there)
    with counted(here, there) as total:
        assert run(here, """
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
            c.bind(("10.32.0.9", 0))
            print(error_of(lambda: c.connect((sys.argv[1], 80))))
        """, there.address) == "ETIMEDOUT"
    assert total.pop("bound_address") == 1
    assert set(total) == {"spoofed_source"}


def test_a_transparent_listener(across: Pair) -> None:
    """A proxy's listener is called as any other; here nothing redirects to it."""
    here, there = across
    seen = started(there, """
        server = socket.socket()
        server.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        server.bind(("0.0.0.0", 80))
        server.listen()
        serve(server)
    """)
    with host_path(here, there):
        client(here, there.address)
    assert seen.line().split()[:3] == [there.address, "80", here.address]


def _open_at_once(here: Container, there: Container, *, bind_address: bool) -> list[str]:
    """Have both connect to each other while nothing gets through; return the errors of both."""
    here.run("ping", "-c1", "-W2", there.address)  # so that their hosts know each other's MAC
    wire = here.machine.cluster.wire
    wire.ip("link set p1 nomaster")
    try:
        both = [start(one, """
            import select
            own, peer = sys.argv[1:]
            c = socket.socket()
            c.bind((own, 5555))
            c.setblocking(False)
            c.connect_ex((peer, 5555))
            ready()
            poll = select.poll()
            poll.register(c, select.POLLOUT)
            poll.poll()
            error = c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            print(os.strerror(error) if error else "none", flush=True)
            sys.stdin.readline()
        """, one.address if bind_address else "", other.address)
            for one, other in ((here, there), (there, here))]
        for one in both:
            assert one.line() == "ready"
    finally:
        wire.ip("link set p1 master br0")
    return [one.line() for one in both]


def test_simultaneous_open_of_addresses(across: Pair) -> None:
    """Programs that are bound to their addresses (RFC 793) meet on the overlay path."""
    here, there = across
    with overlay(here, there, because="bound_address"):
        assert _open_at_once(here, there, bind_address=True) == ["none", "none"]


def test_simultaneous_open_of_ports(across: Pair) -> None:
    """On the host path each calls the other's endpoint port, where nobody listens."""
    here, there = across
    with counted(here, there) as total:
        assert _open_at_once(here, there, bind_address=False) == ["Connection refused"] * 2
    assert total["no_listener"] == 2


@pytest.mark.parametrize(("size", "packets"), [(1422, 1), (1448, 2)], ids=["fits", "of TCP's MSS"])
def test_datagrams_of_tcps_segment_size_are_fragmented(
        across: Pair, size: int, packets: int) -> None:
    """iperf3 -u makes them as long as TCP's segments, which the host path carries untunnelled."""
    here, there = across
    started(there, """
        s = socket.socket(type=socket.SOCK_DGRAM)
        s.bind(("", 53))
        ready()
        data, peer = s.recvfrom(2000)
        s.sendto(str(len(data)).encode(), peer)
    """)
    with counted(here, there) as total:
        assert run(here, """
            s = socket.socket(type=socket.SOCK_DGRAM)
            s.settimeout(8)
            s.sendto(bytes(int(sys.argv[2])), (sys.argv[1], 53))
            print(s.recv(100).decode())
        """, there.address, size) == str(size)
    assert total["overlay_sent"] == packets + 1  # the answer, too


def test_a_datagram_that_must_not_be_fragmented(across: Pair) -> None:
    """With IP_PMTUDISC_DO the program learns at once that it does not fit, and what would."""
    here, there = across
    with counted(here, there) as total:
        assert run(here, """
            s = socket.socket(type=socket.SOCK_DGRAM)
            s.setsockopt(socket.IPPROTO_IP, 10, 2)
            s.connect((sys.argv[1], 53))
            print(error_of(lambda: s.send(bytes(1423))), s.getsockopt(socket.IPPROTO_IP, 14))
        """, there.address) == "EMSGSIZE 1450"
    assert not total
