"""Tests two drivers with a firewall between their hosts that drops the host path's SYNs.

Each host must find that out, name the other one and the likely cause, and take the overlay path
until SYNs get through again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from driver.doctor.driver_says import told_by_driver
from driver.doctor.finding import Finding
from driver.settings import Settings
from tests.netns.cluster.etcd_world import LONG_S, Box, World, directory
from tests.netns.talk import Program
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns
from tests.support.world.served import Host

pytestmark = pytest.mark.timeout(600)

PORTS = "61000-65535"
# What the firewall does -> the error of the first connect() that meets it.
FIREWALLS = {
    "tcp option 254 exists drop": "ETIMEDOUT",
    "reset tcp option 254": "ETIMEDOUT",
    f"tcp dport {PORTS} drop": "ETIMEDOUT",
    f"tcp sport {PORTS} drop": "ETIMEDOUT",  # the answers
    f"tcp dport {PORTS} reject with tcp reset": "ECONNREFUSED",
}
ATTEMPT = """
    print(error_of(lambda: connected(sys.argv[1], 80, timeout_s=90)), flush=True)
"""
ASK_PATIENTLY = "print(asked(connected(sys.argv[1], 80, timeout_s=90)).decode())"
ASK = "print(asked(connected(sys.argv[1], 80, timeout_s=20)).decode())"


@pytest.fixture
def world(running: World) -> World:
    wait_open(*running.hosts)
    return running


@contextmanager
def firewall(wire: Netns, rule: str, towards: int = 0) -> Iterator[None]:
    """A rule for what comes in from both hosts, or only from the one that is not `towards`."""
    devices = ", ".join(f"p{number}" for number in (1, 2) if number != towards)
    wire.run("nft", f"""
        table netdev fire {{
            chain frames {{
                type filter hook ingress devices = {{ {devices} }} priority 0;
                {rule}
            }}
        }}""")
    try:
        yield
    finally:
        wire.run("nft", "delete table netdev fire")


def wait_open(*hosts: Host) -> None:
    for host in hosts:
        wait_until(lambda h=host: h.status()["peers"] == "1 on the host path", LONG_S,  # type: ignore[misc]
                   "SYNs get through")


def wait_blocked(host: Host, peer: Host) -> str:
    """Wait until the host has found it blocked; return what it says."""
    def blocked() -> bool:
        return host.status()["peers"].startswith("0 on the host path, 1 blocked: ")

    wait_until(blocked, LONG_S, f"{host.netns.name} knows that {peer.netns.name} is blocked")
    return host.status()["peers"]


def attempts(world: World) -> list[Program]:
    """Start connections that meet the firewall, both ways at once."""
    first, second = world.boxes
    return [world.program(first, ATTEMPT, second.ip), world.program(second, ATTEMPT, first.ip)]


def assert_path(world: World, client: Box, server: Box, counter: str) -> None:
    """Assert that a new connection works, and that the client's host counts it there."""
    before = client.host.counters()
    assert world.program(client, ASK, server.ip).rest() == "hello"
    after = client.host.counters()
    names = {"connected", "peer_blocked"}
    assert {name for name in names if after[name] > before[name]} == {counter}


@pytest.mark.parametrize("rule", FIREWALLS)
def test_found_named_and_mended(world: World, rule: str) -> None:
    before = [host.counters()["syn_unanswered"] for host in world.hosts]
    with firewall(world.wire, rule):
        assert [program.rest() for program in attempts(world)] == [FIREWALLS[rule]] * 2
        for host, peer in (world.hosts, world.hosts[::-1]):
            underlay = f"198.18.7.{world.hosts.index(peer) + 1}"
            said = wait_blocked(host, peer)
            assert f" ({underlay}): " in said
            assert ("refused in its name" in said) == ("reject" in rule)
            assert f"({underlay}): " in host.log()
            assert f"a firewall between the hosts that lacks TCP {PORTS}" in host.log()
            finding = peers(host)
            assert finding.problem is not None
            assert underlay in finding.problem
        for client, server in (world.boxes, world.boxes[::-1]):
            assert_path(world, client, server, "peer_blocked")
        unanswered = [host.counters()["syn_unanswered"] for host in world.hosts]
        assert unanswered == [count + ("reject" not in rule) for count in before]
    wait_open(*world.hosts)
    for client, server in (world.boxes, world.boxes[::-1]):
        assert_path(world, client, server, "connected")
    finding = peers(world.hosts[0])
    assert finding.problem is None


def test_a_connection_that_is_being_made_outlives_an_outage(world: World) -> None:
    """Nothing gets through for some seconds; connections that began meanwhile succeed."""
    first, _ = world.boxes

    def retransmitted() -> int:
        names, values = first.netns.run("grep", "^TcpExt", "/proc/net/netstat").stdout.splitlines()
        return int(dict(zip(names.split(), values.split(), strict=True))["TCPSynRetrans"])

    before = retransmitted()
    with firewall(world.wire, "drop"):
        program = world.program(first, ASK_PATIENTLY, world.boxes[1].ip)
        wait_blocked(*world.hosts)
        # The second retransmission comes after the verdict.
        wait_until(lambda: retransmitted() >= before + 2, LONG_S, "the SYN is sent again")
    assert program.rest() == "hello"
    wait_open(*world.hosts)


def test_one_direction(world: World) -> None:
    first, second = world.hosts
    with firewall(world.wire, f"tcp dport {PORTS} drop", towards=2):
        assert world.program(world.boxes[0], ATTEMPT, world.boxes[1].ip).rest() == "ETIMEDOUT"
        wait_blocked(first, second)
        assert_path(world, *world.boxes, "peer_blocked")
        assert second.status()["peers"] == "1 on the host path"
        assert_path(world, *world.boxes[::-1], "connected")
    wait_open(first)


def test_a_part_of_the_ports(world: World) -> None:
    """Other ports answer, so only a connection that meets it finds it."""
    first, second = world.hosts
    box = world.attach(second)
    wait_until(world.converged, LONG_S, "the other host knows it")
    port = next(row[3] for row in directory(first) if str(row[1]) == box.ip)
    with firewall(world.wire, f"tcp dport {port} drop", towards=2):
        assert world.program(world.boxes[0], ATTEMPT, box.ip).rest() == "ETIMEDOUT"
        assert f"endpoint ports {port} are not reached" in wait_blocked(first, second)
    wait_open(first)
    world.detach(box)


def peers(host: Host) -> Finding:
    """Return what `slim doctor` says of other hosts."""
    return next(found for found in told_by_driver(Settings(socket=host.socket))
                if found.name == "peers")


def probed(host: Host) -> int:
    """Return how often the other host has answered a probe."""
    return (host.folder / "driver.log").read_text().count(" proven")


def test_a_busy_listener_blocks_nobody(world: World) -> None:
    first = world.hosts[0]
    client, server = world.boxes
    busy = world.program(server, """
        s = listen("0.0.0.0", 81, backlog=0)
        ready()
        input()
    """)
    assert busy.line() == "ready"
    unanswered, before = first.counters()["syn_unanswered"], probed(first)
    program = world.program(client, """
        TCP_SYNCNT = 7
        kept = []
        for _ in range(3):
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_TCP, TCP_SYNCNT, 2)
            kept.append(c)
            if error_of(lambda: c.connect((sys.argv[1], 81))) == "ETIMEDOUT":
                print("full", flush=True)
                break
    """, server.ip)
    assert program.rest() == "full"
    assert first.counters()["syn_unanswered"] == unanswered + 1
    wait_until(lambda: probed(first) > before, LONG_S, "it was probed")
    assert first.status()["peers"] == "1 on the host path"
    assert_path(world, client, server, "connected")
    busy.end()


def test_a_new_driver_goes_on_where_the_old_one_was(world: World) -> None:
    first, second = world.hosts
    with firewall(world.wire, "tcp option 254 exists drop", towards=2):
        assert world.program(world.boxes[0], ATTEMPT, world.boxes[1].ip).rest() == "ETIMEDOUT"
        wait_blocked(first, second)
        first.end_driver(signal.SIGKILL)
        # Nobody may probe.
        first.start_driver()
        assert_path(world, *world.boxes, "peer_blocked")
        wait_blocked(first, second)
        assert_path(world, *world.boxes, "peer_blocked")
    wait_open(first)
    assert_path(world, *world.boxes, "connected")
