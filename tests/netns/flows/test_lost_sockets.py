"""Tests finding connections that no longer have a socket: none that has one, in any state."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from driver.link.netlink.netns import NamespaceAbsent
from driver.link.netlink.sock_diag import Name
from driver.link.sandbox.lost_sockets import lost_sockets
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns

LOCAL = "127.0.0.1"
MANY = 700  # so many that the kernel sends them in several messages


def name(own: tuple[str, int], peer: tuple[str, int]) -> Name:
    def as_in_memory(data: bytes) -> int:
        return int.from_bytes(data, "little")

    return (ip_address(peer[0]).packed, as_in_memory(peer[1].to_bytes(2, "big")),
            as_in_memory(own[1].to_bytes(2, "big")))


def of(each: socket.socket) -> Name:
    own, peer = each.getsockname(), each.getpeername()
    return name((own[0], own[1]), (peer[0].removeprefix("::ffff:"), peer[1]))


@pytest.fixture
def inside(make_netns: Callable[[str], Netns]) -> Iterator[tuple[Netns, ExitStack]]:
    with ExitStack() as stack:
        yield make_netns("lost"), stack


def lost(namespace: Netns, *names: Name) -> set[Name]:
    return lost_sockets(namespace.path, namespace.cookie, socket.inet_aton(LOCAL), names)


def connect(namespace: Netns, stack: ExitStack, count: int = 1,
            family: socket.AddressFamily = socket.AF_INET
            ) -> tuple[list[socket.socket], list[socket.socket]]:
    """Return clients and their accepted ends."""
    def make() -> tuple[list[socket.socket], list[socket.socket]]:
        server = stack.enter_context(socket.create_server((LOCAL, 0), backlog=count))
        clients, accepted = [], []
        for _ in range(count):
            client = stack.enter_context(socket.socket(family))
            address = LOCAL if family == socket.AF_INET else f"::ffff:{LOCAL}"
            client.connect((address, server.getsockname()[1]))
            clients.append(client)
            accepted.append(stack.enter_context(server.accept()[0]))
        return clients, accepted

    return namespace.call(make)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_open_ones_are_found(inside: tuple[Netns, ExitStack],
                             family: socket.AddressFamily) -> None:
    namespace, stack = inside
    clients, accepted = connect(namespace, stack, MANY, family)
    names = [of(each) for each in (*clients, *accepted)]
    no_client = name((LOCAL, 1), (LOCAL, clients[0].getpeername()[1]))
    listener = name((LOCAL, clients[0].getpeername()[1]), (LOCAL, 1))  # no connection
    assert lost(namespace, *names, no_client, listener) == {no_client, listener}


def test_open_ones_of_ipv6_are_found(inside: tuple[Netns, ExitStack]) -> None:
    """By the own address's family; what IPv4 sockets have at the same ports is another's."""
    namespace, stack = inside

    def make() -> tuple[list[Name], Name]:
        server = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6,
                                                          backlog=MANY))
        port = server.getsockname()[1]
        other = stack.enter_context(socket.create_server((LOCAL, port)))
        caller = stack.enter_context(socket.create_connection((LOCAL, port)))
        stack.enter_context(other.accept()[0])
        made = []
        for _ in range(MANY):
            made.append(stack.enter_context(socket.create_connection(("::1", port))))
            made.append(stack.enter_context(server.accept()[0]))
        return [of(each) for each in made], name(("::1", caller.getsockname()[1]), ("::1", port))

    names, ipv4 = namespace.call(make)
    listener = name(("::1", names[0][1]), ("::1", 1))
    local = socket.inet_pton(socket.AF_INET6, "::1")
    assert lost_sockets(namespace.path, namespace.cookie, local, [*names, ipv4, listener]) == {
        ipv4, listener} - set(names)


def test_one_that_ends_is_there_until_time_wait_has_ended(
        inside: tuple[Netns, ExitStack]) -> None:
    namespace, stack = inside
    (client,), (accepted,) = connect(namespace, stack)
    here, there = of(client), of(accepted)
    client.close()
    assert lost(namespace, here, there) == set()
    accepted.close()
    wait_until(lambda: lost(namespace, here, there) == {there}, 30, "the other end to be closed")


def test_one_that_is_not_answered_is_there(inside: tuple[Netns, ExitStack]) -> None:
    """It is in SYN_SENT, and at the other end a request that its owner has not accepted."""
    namespace, stack = inside

    def make() -> tuple[Name, Name]:
        silent = stack.enter_context(socket.create_server((LOCAL, 0), backlog=0))
        port = silent.getsockname()[1]
        held = [stack.enter_context(socket.socket()) for _ in range(4)]
        for each in held:
            each.setblocking(False)
            each.connect_ex((LOCAL, port))
        own = held[-1].getsockname()
        return name(own, (LOCAL, port)), name((LOCAL, port), held[0].getsockname())

    waits, not_accepted = namespace.call(make)
    assert lost(namespace, waits, not_accepted) == set()


def test_another_namespace_says_nothing(inside: tuple[Netns, ExitStack]) -> None:
    namespace, _ = inside
    gone = name((LOCAL, 1), (LOCAL, 2))
    assert lost(namespace, gone) == {gone}
    assert lost_sockets(namespace.path, namespace.cookie + 1, socket.inet_aton(LOCAL), [gone]
                        ) == set()
    with pytest.raises(NamespaceAbsent):
        lost_sockets("/run/netns/slimtest-none", 1, socket.inet_aton(LOCAL), [gone])
