"""The host path on real sockets: two machines, plain programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.machines import Container, Machine
from tests.support.wait import wait_until

SERVER = """
    import socket, sys
    server = socket.create_server(("", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        connection, peer = server.accept()
        print(peer[0], connection.getsockname()[0], connection.getsockname()[1],
              connection.getpeername()[0], flush=True)
        connection.sendall(connection.recv(1000))
        connection.close()
"""
CLIENT = """
    import socket, sys
    client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
    client.sendall(b"hello")
    answer = client.recv(100)
    print(client.getsockname()[0], *client.getpeername(), answer.decode())
"""


def serve(container: Container, port: int = 80) -> Callable[[], str]:
    process = container.start_python(SERVER, port)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return lambda: process.stdout.readline().strip()  # type: ignore[union-attr]


@pytest.fixture(params=["two hosts", "one host"])
def pair(request: pytest.FixtureRequest, machines: list[Machine]) -> tuple[Container, Container]:
    """A client and a server, across hosts and on one."""
    other = machines[1 if request.param == "two hosts" else 0]
    return machines[0].container("10.32.0.2/16"), other.container("10.32.0.3/16")


def test_programs_see_virtual_addresses_only(pair: tuple[Container, Container]) -> None:
    client, server = pair
    seen = serve(server)
    with client.machine.counting() as counted, server.machine.counting() as accepted:
        assert client.python(CLIENT, server.address, 80) == "10.32.0.2 10.32.0.3 80 hello"
        assert seen() == "10.32.0.2 10.32.0.3 80 10.32.0.2"
    assert counted["connected"] == 1
    assert accepted["accepted"] == 1
    assert "overlay_sent" not in counted
    assert "overlay_local" not in counted


def test_flows_are_released(pair: tuple[Container, Container]) -> None:
    client, server = pair
    serve(server)
    for _ in range(3):
        client.python(CLIENT, server.address, 80)

    def live(machine: Machine) -> int:
        return sum(1 for _, flow in machine.flows() if flow.state != 3)

    for machine in {id(m): m for m in (client.machine, server.machine)}.values():
        wait_until(lambda machine=machine: live(machine) == 0, 5, "flows to be released")
