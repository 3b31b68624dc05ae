"""Tests for which packets to_container looks a listener up, and what it remembers of it.

kernel/container.c.  Sockets are looked up in the namespace that the packet's device is in, so the
tables' own can have some.  A run cannot assign a socket to its packet, as it is not at tc's
ingress; that a connection comes of it: tests/netns/host_path/test_listeners.py.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.kernel.packets.case import OK, Case, Entry
from tests.kernel.packets.harness import Kernel
from tests.kernel.packets.packets import MORE_FRAGMENTS, TCP, frame, ip4, ip6, option, tcp, udp
from tests.kernel.packets.world import (
    FAR_PORT,
    FREE_PORT,
    HOST,
    ME,
    MINE,
    MY_PORT,
    MY_VETH,
    OTHER_HOST,
    SEEK,
    STRANGER,
    port,
    syn_of,
    takes_ipv6,
)

SPORT, LISTENING, SILENT = 40000, 8080, 8081
MPTCP = 262
row = partial(Case, program="to_container", came_by=MY_VETH, mark=SEEK)


def sent(flags: str = "S", to: str = HOST, dport: int = MY_PORT, *, fragment: int = 0,
         sport: int = SPORT, source: str = OTHER_HOST) -> bytes:
    return frame(ip4(source, to, tcp(sport, dport, flags, options=option(80, FAR_PORT)), TCP,
                     fragment=fragment))


WAITING = syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=LISTENING)
ASSIGNED = (port(MY_PORT, ME, MINE, MY_VETH, assigned=1),
            syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=LISTENING, assigned=1))
PASSED_OVER = [row(why, packet, OK, given=[WAITING]) for why, packet in (
    ("data", sent("PA")), ("an ACK", sent("A")), ("a FIN", sent("FA")), ("RST", sent("R")),
    ("a SYN-ACK", sent("SA")), ("no flags", sent("")), ("SYN and FIN", sent("SF")),
    ("SYN and RST", sent("SR")), ("SYN and PSH", sent("SP")),
    ("for another address", sent(to=ME)), ("another port's SYN", sent(dport=FREE_PORT)),
    ("a first fragment", sent(fragment=MORE_FRAGMENTS)),
    ("UDP", frame(ip4(OTHER_HOST, HOST, udp()))), ("IPv6", frame(ip6("::1", "::2"), 0x86DD)),
    ("half a header", sent()[:14 + 20 + 19]))]
PASSED_OVER_THOUGH = [
    row("not marked", sent(), OK, given=[WAITING], mark=0),
    row("a mark of somebody else", sent(), OK, given=[WAITING], mark=7, marked=7),
    row("a SYN that was not let in", sent(), OK),
    row("an ACK of one whose listener is known", sent("A"), OK, given=[ASSIGNED[0], WAITING]),
    row("an ACK where no port has such listeners", sent("A"), OK, given=[ASSIGNED[1]]),
    row("an ACK with data", sent("PA"), OK, given=ASSIGNED),
]
FOUND = row("a SYN", sent(), OK, given=[WAITING])
NO_LISTENER = [
    row("at that port", sent(), OK, "no_listener",
        given=[syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=SILENT)]),
    row("at that address", sent(), OK, "no_listener",
        given=[syn_of(OTHER_HOST, SPORT, MY_PORT, addr_be=STRANGER, port_be=LISTENING + 2)]),
]


@pytest.fixture(scope="module", autouse=True)
def listening(kernel: Kernel) -> Iterator[None]:
    """Listen for everybody, and for one address."""
    with ExitStack() as stack:
        for name in (("0.0.0.0", LISTENING), ("127.0.0.1", LISTENING + 2)):
            stack.enter_context(kernel.netns.call(partial(socket.create_server, name)))
        yield


@pytest.fixture
def mptcp(kernel: Kernel) -> Iterator[int]:
    """Yield the port of a listener that no SOCKHASH takes."""
    if not Path("/proc/sys/net/mptcp").exists():
        pytest.skip("missing: the kernel's MPTCP")

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
        made.bind(("0.0.0.0", 0))
        made.listen()
        return made

    with kernel.netns.call(make) as made:
        yield made.getsockname()[1]


def by_ipv6(port_be: int) -> list[Entry]:
    """Return a SYN to ::1, which means IPv6."""
    return [takes_ipv6(MINE, "::1"), syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=port_be, ipv6=1)]


@contextmanager
def listening6(kernel: Kernel, *, dual: bool, port: int = 0) -> Iterator[int]:
    """Listen at [::]; yield the port."""
    with kernel.netns.call(lambda: socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=dual)) as made:
        yield made.getsockname()[1]


def known(kernel: Kernel) -> int:
    return len(kernel.loaded.table("listeners"))


@pytest.mark.parametrize("case", [*PASSED_OVER, *PASSED_OVER_THOUGH, *NO_LISTENER],
                         ids=lambda case: case.why)
def test_no_listener_is_found(case: Case, run: Callable[[Case], None], kernel: Kernel) -> None:
    run(case)
    assert known(kernel) == 0


@pytest.mark.parametrize("case", [FOUND, replace(FOUND, packet=sent("A"), given=ASSIGNED)],
                         ids=["SYN", "ACK of a cookie"])
def test_a_listener_is_found(case: Case, run: Callable[[Case], None], kernel: Kernel) -> None:
    run(case)
    table = kernel.loaded.table("listeners")
    (name,) = table
    assert (name.sandbox, socket.htons(name.port_be), name.vni) == (MINE, LISTENING, 1)


@contextmanager
def connection(kernel: Kernel, address: str, port: int, *, closed: bool = False) -> Iterator[int]:
    """Connect to oneself in the packets' namespace; yield the client's port.

    closed: by the server first, where it is in TIME_WAIT then.
    """
    with ExitStack() as stack:
        def make() -> int:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.create_server((address, port), family=family))
            client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
            accepted = stack.enter_context(listener.accept()[0])
            name = int(client.getsockname()[1])
            if closed:
                accepted.close()
                assert client.recv(1) == b""
                client.close()
            return name

        yield kernel.netns.call(make)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_with_these_names_is_passed_over(
        run: Callable[[Case], None], kernel: Kernel, address: str, closed: bool) -> None:
    """It came over the overlay path: which way connections take may differ one by one."""
    with connection(kernel, address, SILENT, closed=closed) as client:
        given = [syn_of(OTHER_HOST, client, MY_PORT, addr_be="127.0.0.1", peer_addr_be="127.0.0.1",
                        port_be=SILENT)]
        counts = ""
        if address == "::1":  # its listener is not for IPv4, too
            given = [takes_ipv6(MINE, "::1"), syn_of(OTHER_HOST, client, MY_PORT, port_be=SILENT,
                                                     ipv6=1)]
            counts = "listener_assigned"
        then = [replace(given[-1], leaf={"assigned": 1})] if counts else []
        run(replace(FOUND, packet=sent(sport=client), counts=counts, given=given, then=then))
        assert known(kernel) == (0 if counts else 1)


def test_a_listener_that_must_be_assigned(run: Callable[[Case], None], kernel: Kernel,
                                          mptcp: int) -> None:
    run(replace(FOUND, counts="listener_assigned",
                given=[syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=mptcp)],
                then=[syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=mptcp, assigned=1)]))
    ports = kernel.loaded.table("ports")
    assert ports[ports.Key(MY_PORT)].assigned == 1
    assert known(kernel) == 0


def test_a_listener_of_both_families(run: Callable[[Case], None], kernel: Kernel) -> None:
    with listening6(kernel, dual=True) as found:
        run(replace(FOUND, given=by_ipv6(found)))
        (name,) = kernel.loaded.table("listeners")
        assert (socket.htons(name.port_be), name.ipv6) == (found, 1)


@pytest.mark.parametrize("beside", [True, False])
def test_a_listener_of_ipv6_alone_must_be_assigned(run: Callable[[Case], None], kernel: Kernel,
                                                   beside: bool) -> None:
    """Also beside one for IPv4 at the same port."""
    with listening6(kernel, dual=False, port=LISTENING if beside else 0) as found:
        given = by_ipv6(found)
        run(replace(FOUND, counts="listener_assigned", given=given,
                    then=[syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=found, ipv6=1, assigned=1)]))
    assert known(kernel) == 0


def test_by_ipv6_nobody_listens(run: Callable[[Case], None], kernel: Kernel) -> None:
    """A listener for IPv4 is none, nor is any where the sandbox takes no IPv6."""
    run(replace(FOUND, counts="no_listener", given=by_ipv6(LISTENING)))
    with listening6(kernel, dual=True) as found:
        run(replace(FOUND, counts="no_listener", given=by_ipv6(found)[1:]))
    assert known(kernel) == 0


def test_a_group_of_listeners_of_both_families(run: Callable[[Case], None], kernel: Kernel) -> None:
    """With SO_REUSEPORT each look-up finds one of them, which need not be the same one."""
    with ExitStack() as stack:
        def make() -> int:
            port = 0
            for _ in range(16):
                each = stack.enter_context(socket.socket(socket.AF_INET6))
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                each.bind(("::", port))
                each.listen()
                port = each.getsockname()[1]
            return port

        run(replace(FOUND, given=by_ipv6(kernel.netns.call(make))))
        assert known(kernel) == 1


def test_another_listener_on_the_wires_name_is_no_obstacle(
        run: Callable[[Case], None], kernel: Kernel, mptcp: int) -> None:
    with kernel.netns.call(partial(socket.create_server, (HOST, MY_PORT))):
        run(replace(FOUND, counts="listener_assigned",
                    given=[syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=mptcp)],
                    then=[syn_of(OTHER_HOST, SPORT, MY_PORT, port_be=mptcp, assigned=1)]))


def test_a_connection_of_the_wires_name_sees_the_packet_first(
        run: Callable[[Case], None], kernel: Kernel, mptcp: int) -> None:
    with connection(kernel, HOST, MY_PORT) as client:
        run(replace(FOUND, packet=sent(sport=client, source=HOST),
                    given=[syn_of(HOST, client, MY_PORT, port_be=mptcp)],
                    then=[syn_of(HOST, client, MY_PORT, port_be=mptcp, assigned=1)]))
