"""Tests the isolation of two networks with the same addresses, and of the host's own programs.

On either path a container reaches the address of its own network, or nothing.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from tests.netns.attacks.attack import Tap, endpoint, quiet_server, send, victim
from tests.netns.talk import client, counted, host_path, overlay, run, server, started
from tests.support.world.machines import Cluster, Container, Machine

Twins = tuple[Container, Container, Container, Container]
_NAMED = """
    name = sys.argv[1].encode()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", 5000))
    def answer():
        while True:
            peer = datagrams.recvfrom(100)[1]
            datagrams.sendto(name, peer)
    threading.Thread(target=answer, daemon=True).start()
    server = listen("0.0.0.0", 80)
    ready()
    while True:
        server.accept()[0].sendall(name)
"""
_WHO = """
    address, own = sys.argv[1:]
    c = connected(address, 80)
    print(c.recv(100).decode())
    c = connected(address, 80, bind=(own, 0))
    print(c.recv(100).decode())
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.sendto(b"who?", (address, 5000))
    print(s.recv(100).decode())
"""


@pytest.fixture(params=["two hosts", "one host"])
def twins(request: pytest.FixtureRequest, machines: list[Machine]) -> Twins:
    """Client and server of network 1, and those of network 2, with the same addresses."""
    other = machines[1 if request.param == "two hosts" else 0]
    made = [(machines[0].container("10.32.0.2/16", vni=vni),
             other.container("10.32.0.3/16", vni=vni)) for vni in (1, 2)]
    for number, (_, there) in enumerate(made, 1):
        started(there, _NAMED, f"network {number}")
    return (*made[0], *made[1])


def test_each_gets_its_own_on_both_paths(twins: Twins) -> None:
    """TCP on the host path, TCP on the overlay path, UDP, and pings."""
    one, there, two, _ = twins
    for caller, name in ((one, "network 1"), (two, "network 2")):
        with counted(one, there) as total:
            assert run(caller, _WHO, "10.32.0.3", "10.32.0.2").splitlines() == [name] * 3
        ways = [total.get(name, 0) for name in ("connected", "accepted", "bound_address", "local")]
        assert ways == ([0, 0, 0, 2] if there.machine is one.machine else [1, 1, 1, 0])
    taps = [Tap(container) for container in twins]
    with overlay(one, there):
        one.run("ping", "-c2", "-i0.05", "-W2", "10.32.0.3")
    seen = [sum(frame.haslayer(ICMP) for frame in tap.frames()) for tap in taps]
    assert seen == [2, 2, 0, 0]


def test_who_is_in_one_network_only_is_nobody_in_the_other(
        machines: list[Machine], twins: Twins) -> None:
    """Its address is called from the other network in every protocol, and by its U and P."""
    one, there, _, _ = twins
    alone = there.machine.container("10.32.0.9/16", vni=2)
    quiet_server(alone)
    tap = Tap(alone)
    to = endpoint(alone)
    with counted(one, there) as total:
        said = run(one, f"""
            for address, port in (("10.32.0.9", 80), ({str(to.underlay)!r}, {to.port})):
                c = socket.socket()
                c.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 300)
                c.settimeout(3)
                print(error_of(lambda: c.connect((address, port))))
        """).split()
        assert said[0] == "ETIMEDOUT"
        assert said[1] in ("ETIMEDOUT", "ENETUNREACH")  # on one host U is the container's own
        send(one, [IP(src="10.32.0.2", dst="10.32.0.9", proto=proto) / Raw(bytes(20))
                   for proto in (1, 6, 17, 47, 50, 132)])
        send(one, IP(src="10.32.0.2", dst="10.32.0.255") / UDP() / Raw(b"evil"))
    assert total.pop("unknown_peer") == 1
    # On one host packets to U stay inside, and the container's answer to itself may not leave.
    assert {"unknown_destination"} <= set(total) <= {"unknown_destination", "foreign_flow"}
    assert not tap.frames()
    del machines


def test_a_reply_to_another_networks_caller(twins: Twins) -> None:
    """A server cannot answer or cut the connection of its twin in the other network."""
    one, there, _, other = twins
    live = victim(one, there, 81)
    tap = Tap(one)
    with counted(one, other) as total:
        send(other, IP(src="10.32.0.3", dst="10.32.0.2") / ICMP(type=0) / Raw(b"evil"))
    if other.machine is one.machine:
        assert total == {"overlay_local": 1}  # to its own network's 10.32.0.2
    else:
        assert total == {"overlay_sent": 1, "overlay_received": 1}
    assert not [frame for frame in tap.frames() if frame.haslayer(ICMP)]
    assert live.lives()


# Runs a program in the host's cgroup and namespace, as a container with --network host does.
@contextmanager
def _on_the_host(machine: Machine, code: str, *arguments: object
                 ) -> Iterator[subprocess.Popen[str]]:
    join = f'echo $$ > {machine.cgroup}/cgroup.procs && exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", join, "sh", *machine.netns.command(sys.executable, "-u", "-S", "-E", "-c",
                                                        code, *map(str, arguments))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


_HOSTS_SERVER = """
import socket
s = socket.create_server(("0.0.0.0", 2222))
print("ready", flush=True)
while True:
    c, peer = s.accept()
    print(*c.getsockname(), *c.getpeername(), *peer, flush=True)
"""
_HOSTS_CLIENT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
c = socket.socket(family)
c.connect((sys.argv[1], 2222))
print(*c.getsockname()[:2], *c.getpeername()[:2], flush=True)
"""


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
def test_the_hosts_own_connections(machines: list[Machine], mapped: str) -> None:
    """They have the host's own names, though containers on both hosts have such a server, too."""
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    server(there, 2222)
    own, peer = str(machines[0].underlay), str(machines[1].underlay)
    with counted(here, there) as total, _on_the_host(machines[1], _HOSTS_SERVER) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        with _on_the_host(machines[0], _HOSTS_CLIENT, mapped + peer) as calling:
            assert calling.stdout is not None
            said = calling.stdout.readline().split()
        assert said == [mapped + own, said[1], mapped + peer, "2222"]
        assert listening.stdout.readline().split() == [peer, "2222", *[own, said[1]] * 2]
    assert not total
    with host_path(here, there):
        client(here, there.address, 2222)


def test_a_program_in_the_hosts_network_is_no_endpoint(
        machines: list[Machine], cluster: Cluster) -> None:
    """It has no virtual address, reaches none, and is not taken for a container beside it."""
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    quiet_server(there)
    code = """
import socket, sys
c = socket.socket()
c.settimeout(2)
c.setsockopt(6, 18, 300)
try:
    c.connect((sys.argv[1], int(sys.argv[2])))
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""
    to = endpoint(there)
    with counted(here, there) as total:
        for address, port in (("10.32.0.3", 80), (str(to.underlay), to.port)):
            with _on_the_host(machines[0], code, address, port) as process:
                assert process.stdout is not None
                assert process.stdout.readline().strip() in ("TimeoutError", "OSError")
    assert set(total) == {"syn_no_option"}
    with cluster.wire.call(socket.socket) as outside:
        outside.settimeout(1)
        assert outside.connect_ex(("10.32.0.3", 80)) != 0
