"""Tests probes between two hosts' programs: who answers what, and what they do not disturb."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from driver.client_ports import client_ports
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.loading import bpf
from driver.datapath.tables.host_paths import BlockedHosts, Probes
from driver.link.underlay.syn_probe import RawSynProber
from driver.services.ports import Probe, ProbeFlow, Reply
from tests.netns.talk import INSIDE, client, counted, host_path, run, server
from tests.support.world.machines import PORT_FIRST, PORT_LAST, Cluster, Container, Machine

WAIT_S = 5.0  # how long to wait for no answer; one takes less than a millisecond
SILENCE_S = 0.3
CLIENTS = client_ports((PORT_FIRST, PORT_LAST), (32768, 60999), ())
DROP_ALL = "table ip own { chain in { type filter hook input priority 0; policy drop; }\n}"


def ask(machine: Machine, *probes: Probe, wait_s: float = WAIT_S) -> dict[Probe, Reply]:
    """Send probes as the machine's driver does."""
    def act() -> dict[Probe, Reply]:
        prober = RawSynProber(Probes(machine.loaded), machine.underlay,
                              machine.netns.ifindex("eth0"), CLIENTS.all())
        try:
            return prober.ask(probes, wait_s)
        finally:
            prober.close()

    return machine.netns.call(act)


def probe(caller: Container, callee: Container, *, port: int = 0) -> Probe:
    return Probe(callee.machine.underlay, port or callee.endpoints[0][0].port,
                 caller.endpoints[0][0].port)


def reply(caller: Container, callee: Container, *, port: int = 0, wait_s: float = WAIT_S) -> Reply:
    asked = probe(caller, callee, port=port)
    return ask(caller.machine, asked, wait_s=wait_s)[asked]


@pytest.fixture
def two(machines: list[Machine]) -> tuple[Container, Container]:
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


def test_slim_answers_with_a_proof(two: tuple[Container, Container]) -> None:
    """No container takes part, no counter grows, and nothing is left."""
    def entries() -> set[tuple[str, str, bytes]]:
        return {(container.machine.netns.name, name, bytes(key)) for container in two
                for name in ("probes", "pending", "flows")
                for key, _ in bpf.entries(container.machine.loaded.table(name))}

    before = entries()
    with counted(*two) as grown:
        assert reply(*two) is Reply.PROVEN
        assert reply(*two[::-1]) is Reply.PROVEN
    assert grown == {}
    assert entries() <= before


def test_the_wire_is_asked_and_not_the_endpoint(two: tuple[Container, Container]) -> None:
    """The port's container drops everything, or no endpoint has the port."""
    two[1].netns.run("nft", DROP_ALL)
    assert reply(*two) is Reply.PROVEN
    assert reply(*two, port=PORT_LAST) is Reply.PROVEN


def test_hosts_own_filters_take_no_part(two: tuple[Container, Container]) -> None:
    """Incoming host path packets do not pass them either."""
    machines = [container.machine for container in two]
    for machine in machines:
        machine.netns.run("nft", DROP_ALL)
    try:
        assert reply(*two) is Reply.PROVEN
    finally:
        for machine in machines:
            machine.netns.run("nft", "delete table ip own")


def test_what_this_host_cannot_send_says_nothing(two: tuple[Container, Container]) -> None:
    here = two[0].machine
    here.netns.run("nft", "table ip own { chain out { type filter hook output priority 0; "
                          "policy drop; }\n}")
    try:
        assert reply(*two) is Reply.UNSENT
    finally:
        here.netns.run("nft", "delete table ip own")


def test_a_caller_that_is_not_known_has_no_answer(two: tuple[Container, Container]) -> None:
    a, b = two
    stranger = Probe(b.machine.underlay, b.endpoints[0][0].port, PORT_LAST)
    with counted(b) as grown:
        assert ask(a.machine, stranger, wait_s=SILENCE_S) == {stranger: Reply.NONE}
    assert grown == {"probe_unknown": 1}


def test_connecting_to_port_0_is_refused(two: tuple[Container, Container]) -> None:
    """A program's SYN still lacks its checksum, and its flow is a container's."""
    a, b = two
    with counted(a, b) as grown:
        assert run(a, f"print(error_of(lambda: connected({b.address!r}, 0)))") == "ECONNREFUSED"
    assert grown == {}


def test_containers_flows_are_left_alone(two: tuple[Container, Container]) -> None:
    a, b = two
    server(b)
    with host_path(a, b):
        client(a, b.address, bind=("", 40000))
    probes = Probes(a.machine.loaded)
    taken = ProbeFlow(b.machine.underlay, b.endpoints[0][0].port, 40000)
    assert not probes.expect(taken, 1)
    free = ProbeFlow(b.machine.underlay, b.endpoints[0][0].port, 40001)
    assert probes.expect(free, 1)
    probes.forget(free)
    probes.forget(free)


def test_only_the_right_answer_counts(two: tuple[Container, Container]) -> None:
    """A forger that has not seen the SYN does not know its sequence number."""
    a, b = two
    probes = Probes(a.machine.loaded)
    flow = ProbeFlow(b.machine.underlay, b.endpoints[0][0].port, 40000)
    assert probes.expect(flow, 0xffffffff)

    def forged(ack: int) -> None:
        b.machine.netns.run("python3", "-S", "-E", "-c", f"""
import sys; sys.path.insert(0, {str(INSIDE)!r})
from inside import *
packet = tcp({str(b.machine.underlay)!r}, {flow.port}, {str(a.machine.underlay)!r}, 40000,
             flags=0x14, ack={ack})
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).sendto(
    packet, ({str(a.machine.underlay)!r}, 0))
""")

    try:
        forged(1)
        # This one follows on the same wire: once it has arrived, the other one had, too.
        assert reply(a, b) is Reply.PROVEN
        assert probes.window(flow) is None
        forged(0)
        assert reply(a, b) is Reply.PROVEN
        assert probes.window(flow) is not None
    finally:
        probes.forget(flow)


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Machine]:
    """A host whose older programs do not know probes."""
    folder = tmp_path / "kernel"
    shutil.copytree(KERNEL_FOLDER, folder)
    text = (folder / "deliver.c").read_text()
    assert text.count("return PROBED;") == 1
    (folder / "deliver.c").write_text(text.replace("return PROBED;", "(void)0;"))
    with ExitStack() as stack:
        whole = Cluster(stack)
        whole.add_machine()
        yield whole.add_machine(kernel_folder=folder)


def test_an_older_slim_is_reached(older: Machine) -> None:
    """Its container's kernel answers, which proves nothing, and need not."""
    newer = older.cluster.machines[0]
    a, b = newer.container("10.32.0.2/16"), older.container("10.32.0.3/16")
    assert reply(a, b) is Reply.PLAIN
    assert reply(b, a) is Reply.PROVEN
    older.clear()
    newer.clear()


def test_blocked_hosts_are_what_was_said_last(machines: list[Machine]) -> None:
    paths = BlockedHosts(machines[0].loaded)
    one, other = machines[1].underlay, machines[0].underlay
    try:
        paths.block([one, other])
        assert paths.blocked() == {one, other}
        paths.block([one, other], [one])
        assert paths.blocked() == {one, other}
        paths.block([one])
        assert BlockedHosts(machines[0].loaded).blocked() == {one}
    finally:
        paths.block([])
    assert paths.blocked() == set()
