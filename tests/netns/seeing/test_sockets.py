"""Tests that connections are listed by the names that their programs see, with the real kernel."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as File

import pytest

from driver.errors import NotFound
from driver.link.sandbox.open_sockets import DiagSockets
from driver.model import EndpointId
from driver.services.ports import OpenSocket, Path
from tests.netns.kept_off.noted import told
from tests.netns.seeing.eyes import Eyes, ends
from tests.netns.talk import Program, run, server, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine
from tests.support.world.netns import Netns

MANY = 3000
HOLD = """
    c = connected(sys.argv[1], int(sys.argv[2]), family=socket.AF_INET6 if ":" in sys.argv[1]
                  else socket.AF_INET)
    assert asked(c) == b"hello"
    ready()
    print(names(c), flush=True)
    sys.stdin.readline()
"""


def held(container: Container, address: str, port: int = 80) -> tuple[Program, list[str]]:
    """Open a connection that stays; return it, and its names as its program sees them."""
    program = started(container, HOLD, address, port)
    return program, program.line().split()


def test_both_ends_on_the_host_path(across: tuple[Container, Container]) -> None:
    here, there = across
    serving = server(there)
    _, own = held(here, there.address)
    called = Eyes(here.machine).connection(here)
    accepted = Eyes(there.machine).connection(there)
    assert ends(called) == own
    assert ends(accepted) == serving.line().split()
    assert own[0] == here.address
    for found, other in ((called, there), (accepted, here)):
        assert found.path is Path.HOST
        assert found.peer_host == str(other.machine.underlay)
        assert found.age_s is not None
        assert found.age_s < 600
        assert found.socket.state == "ESTAB"
        assert found.socket.rtt_us > 0
        assert (found.socket.received_bytes, found.socket.sent_bytes) == (5, 5)
        assert found.socket.retransmissions == 0


def test_directly_on_one_host(machines: list[Machine]) -> None:
    here, there = (machines[0].container(f"10.32.0.{number}/16") for number in (2, 3))
    serving = server(there)
    _, own = held(here, there.address)
    eyes = Eyes(machines[0])
    called, accepted = eyes.connection(here), eyes.connection(there)
    assert ends(called) == own
    assert ends(accepted) == serving.line().split()
    for found, other in ((called, there), (accepted, here)):
        assert (found.path, found.age_s, found.peer_host) == (Path.LOCAL, None, "this host")
        assert found.peer_name == other.endpoints[0][0].id[:12]


def test_on_the_overlay_path(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    with told(there):
        _, own = held(here, there.address)
    found = Eyes(here.machine).connection(here)
    assert ends(found) == own
    assert (found.path, found.age_s) == (Path.OVERLAY, None)
    assert found.peer_host == str(there.machine.underlay)
    assert Eyes(here.machine).listing(here, path=Path.HOST).connections == []


@pytest.mark.parametrize("on_the_host_path", [True, False])
def test_ipv6(machines: list[Machine], on_the_host_path: bool) -> None:
    here = machines[0].container("10.32.0.2/16", address6="fd00:32::2/64")
    there = machines[1].container()
    machines[1].connect(there, "10.32.0.3/16", address6="fd00:32::3/64",
                        takes_ipv6=on_the_host_path)
    serving = server(there, address="::")
    _, own = held(here, there.address6)
    called = Eyes(machines[0]).connection(here)
    accepted = Eyes(machines[1]).connection(there)
    assert ends(called) == own
    assert own[0] == "fd00:32::2"
    assert ends(accepted) == serving.line().split()
    for found in (called, accepted):
        assert found.path is (Path.HOST if on_the_host_path else Path.OVERLAY)


def test_a_mapped_address(across: tuple[Container, Container]) -> None:
    """The program of an IPv6 socket sees ::ffff:…; here it is what it stands for."""
    here, there = across
    server(there, address="::")
    held(here, f"::ffff:{there.address}")
    for container, peer in ((here, there), (there, here)):
        found = Eyes(container.machine).connection(container)
        assert (found.path, str(found.local), str(found.peer)) == (
            Path.HOST, container.address, peer.address)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_service_that_was_called(machines: list[Machine], elsewhere: bool) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1 if elsewhere else 0].container("10.32.0.3/16")
    server(there)
    with machines[0].cluster.service("10.32.0.200", there.address):
        _, own = held(here, "10.32.0.200")
        found = Eyes(machines[0]).connection(here)
    assert ends(found) == own
    assert own[2] == "10.32.0.200"
    assert found.path is (Path.HOST if elsewhere else Path.LOCAL)
    assert found.peer_host == (str(machines[1].underlay) if elsewhere else "this host")


def test_a_connection_that_is_being_made(across: tuple[Container, Container]) -> None:
    """Its SYNs go nowhere: who looks wants to see just that."""
    here, there = across
    there.machine.netns.ip("link set eth0 down")
    try:
        started(here, """
            c = socket.socket()
            c.setblocking(False)
            c.connect_ex((sys.argv[1], 80))
            ready()
            sys.stdin.readline()
        """, there.address)
        found = Eyes(here.machine).connection(here)
        assert (found.socket.state, found.path, str(found.peer)) == (
            "SYN-SENT", Path.HOST, there.address)
    finally:
        there.machine.netns.ip("link set eth0 up")
        there.machine.netns.ip("route replace default via 198.18.77.254")


def test_listeners_and_what_is_outside(across: tuple[Container, Container]) -> None:
    _, there = across
    server(there)
    started(there, """
        server, own = listen("127.0.0.1", 81), listen(sys.argv[1], 82)
        waiting = connected("127.0.0.1", 81)
        ready()
        sys.stdin.readline()
    """, there.address)
    eyes = Eyes(there.machine)
    found = eyes.listing(there, listening=True).connections
    assert [(str(each.local), each.local_port) for each in found] == [
        ("0.0.0.0", 80), (there.address, 82)]
    every = {each.local_port: each for each in eyes.listing(
        there, listening=True, everything=True).connections}
    assert (every[81].socket.waiting, every[80].socket.backlog) == (1, 1024)
    assert eyes.listing(there).connections == []
    outside = eyes.listing(there, path=Path.OUTSIDE).connections
    assert {str(each.local) for each in outside} == {"127.0.0.1"}
    assert len(outside) == 2


def test_thousands(across: tuple[Container, Container]) -> None:
    """All are read, each by its names; none is mixed up with another one."""
    here, there = across
    server(there)
    program = started(here, """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 14, 1 << 14))
        held = [connected(sys.argv[1], 80) for _ in range(int(sys.argv[2]))]
        ready()
        print(*(c.getsockname()[1] for c in held), flush=True)
        sys.stdin.readline()
    """, there.address, MANY)
    ports = set(map(int, program.line().split()))
    listing = Eyes(here.machine).listing()
    assert (listing.more, listing.unread) == ({}, {})
    assert {each.local_port for each in listing.connections} == ports
    assert {(each.path, str(each.peer), each.peer_port) for each in listing.connections} == {
        (Path.HOST, there.address, 80)}


def test_a_container_that_goes_while_it_is_read(across: tuple[Container, Container],
                                                tmp_path: File) -> None:
    """dockerd unmounts its namespace, then removes the file: neither state is an error."""
    here, there = across
    server(there)
    held(here, there.address)
    eyes = Eyes(here.machine)
    unmounted = tmp_path / "unmounted"
    unmounted.touch()
    endpoint, _ = here.endpoints[0]
    eyes.also = [replace(endpoint, id=EndpointId(f"{number}" * 64), sandbox_key=str(path))
                 for number, path in enumerate((unmounted, tmp_path / "removed"))]
    listing = eyes.listing()
    assert listing.unread == {}
    assert [str(each.peer) for each in listing.connections] == [there.address]
    for each in eyes.also:
        with pytest.raises(NotFound, match="is just going"):
            eyes.ask(each.id, there.address)


def test_a_namespace_that_goes_in_the_midst(make_netns: Callable[[str], Netns]) -> None:
    """Whoever reads holds it; the reader gets what there was."""
    box = make_netns("box")
    with box.call(lambda: socket.create_server(("127.0.0.1", 80))), (
            box.call(lambda: socket.create_server(("127.0.0.1", 81)))):
        seen: list[int] = []

        def take(one: OpenSocket) -> bool:
            if not seen:
                subprocess.run(["umount", "--lazy", box.path], check=True)
            seen.append(one.local_port)
            return True

        sockets = DiagSockets([])
        assert sockets.read(box.path, take, listening=True)
        assert sorted(seen) == [80, 81]
        assert not sockets.read(box.path, take, listening=True)


def test_one_that_is_kept_off_since(across: tuple[Container, Container]) -> None:
    """Open connections go on where they are; what is new takes the overlay."""
    here, there = across
    server(there)
    held(here, there.address)
    run(here, 'set_key(socket.socket(), "10.32.0.77", b"secret")')
    held(here, there.address)
    found = Eyes(here.machine).listing(here).connections
    assert sorted(each.path for each in found) == [Path.HOST, Path.OVERLAY]
    assert {str(each.peer) for each in found} == {there.address}


def test_a_closed_one_is_not_listed(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    program, _ = held(here, there.address)
    program.end()
    eyes = Eyes(here.machine)
    wait_until(lambda: not eyes.listing(here).connections, 10, "the connection has closed")
