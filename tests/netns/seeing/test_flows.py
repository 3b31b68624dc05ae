"""Tests that connections are told as they open and close, with the real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from driver.datapath.code.reasons import read_reasons
from driver.datapath.tables.events import KernelEvents
from driver.services.ports import Ending, EventKind, Why
from driver.services.seeing.following import WATCH_S
from driver.services.seeing.telling import Verdict
from tests.netns.kept_off.noted import told
from tests.netns.seeing.follower import Watch, watching
from tests.netns.seeing.test_verdicts import blocked, dead, withheld
from tests.netns.talk import client, run, server, start, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

ASK = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    assert asked(c) == b"hello"
    print(names(c))
    c.shutdown(socket.SHUT_WR)
    assert c.recv(1) == b""
"""
Pair = tuple[Container, Container]


@pytest.fixture
def watches(machines: list[Machine]) -> Iterator[list[Watch]]:
    """A reader for each of two machines."""
    with watching(machines[0]) as first, watching(machines[1]) as second:
        yield [first, second]


def test_on_the_host_path(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    server(there)
    called, accepted = (watch.follow() for watch in watches)
    own = run(here, ASK, there.address).split()
    opened, closed = called.until(2)
    for each in (opened, closed):
        assert (each.verdict, each.reason, each.event.inbound) == (Verdict.HOST, "", False)
        assert each.container == here.endpoints[0][0].id[:12]
        assert each.peer_host == str(there.machine.underlay)
        assert [str(each.event.local), str(each.event.peer), each.event.peer_port] == [
            own[0], own[2], 80]
    assert (opened.event.kind, closed.event.kind) == (EventKind.CONNECT, EventKind.CLOSE)
    assert opened.event.socket == closed.event.socket > 0
    assert closed.event.local_port == int(own[1])
    assert closed.event.ending is Ending.HERE
    assert closed.event.lasted_ns > 0
    assert closed.event.sent_bytes == 5
    assert closed.event.received_bytes in (5, 6)  # the peer's FIN may be among them
    taken, ended = accepted.until(2)
    assert (taken.event.kind, ended.event.kind) == (EventKind.ACCEPT, EventKind.CLOSE)
    for each in (taken, ended):
        assert (each.verdict, each.reason, each.event.inbound) == (Verdict.HOST, "", True)
        assert each.container == there.endpoints[0][0].id[:12]
        assert [str(each.event.peer), each.event.peer_port, str(each.event.local)] == [
            own[0], int(own[1]), own[2]]
        assert each.event.local_port == 80
    assert ended.event.ending is Ending.PEER
    assert (ended.event.sent_bytes, ended.event.received_bytes) == (5, 5)


def test_on_the_overlay_path(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    server(there)
    called, accepted = (watch.follow() for watch in watches)
    with told(there):
        own = run(here, ASK, there.address).split()
    opened, closed = called.until(2)
    assert [(each.event.kind, each.verdict, each.reason) for each in (opened, closed)] == [
        (EventKind.CONNECT, Verdict.OVERLAY, "overlay_only"),
        (EventKind.CLOSE, Verdict.OVERLAY, "overlay_only")]
    assert opened.peer_host == str(there.machine.underlay)
    assert closed.event.local_port == int(own[1])
    assert (closed.event.sent_bytes, closed.event.ending) == (5, Ending.HERE)
    taken, ended = accepted.until(2)
    assert [(each.event.kind, each.verdict, each.reason) for each in (taken, ended)] == [
        (EventKind.ACCEPT, Verdict.OVERLAY, ""), (EventKind.CLOSE, Verdict.OVERLAY, "")]
    assert [str(taken.event.peer), taken.event.peer_port, taken.event.local_port] == [
        own[0], int(own[1]), 80]
    assert (ended.event.sent_bytes, ended.event.received_bytes) == (5, 5)


def test_directly_on_one_host(machines: list[Machine], watches: list[Watch]) -> None:
    here, there = (machines[0].container(f"10.32.0.{number}/16") for number in (2, 3))
    server(there)
    follower = watches[0].follow()
    run(here, ASK, there.address)
    seen = follower.until(4)
    assert {each.verdict for each in seen} == {Verdict.LOCAL}
    assert sorted((each.event.kind, each.event.inbound) for each in seen) == [
        (EventKind.ACCEPT, True), (EventKind.CLOSE, False), (EventKind.CLOSE, True),
        (EventKind.CONNECT, False)]
    assert {each.peer_host for each in seen} == {"this host"}


@pytest.mark.parametrize("on_the_host_path", [True, False])
def test_ipv6(machines: list[Machine], watches: list[Watch], on_the_host_path: bool) -> None:
    here = machines[0].container("10.32.0.2/16", address6="fd00:32::2/64")
    there = machines[1].container()
    machines[1].connect(there, "10.32.0.3/16", address6="fd00:32::3/64",
                        takes_ipv6=on_the_host_path)
    server(there, address="::")
    called, accepted = (watch.follow() for watch in watches)
    run(here, ASK, there.address6)
    verdict = Verdict.HOST if on_the_host_path else Verdict.OVERLAY
    for follower, local, peer in ((called, "fd00:32::2", "fd00:32::3"),
                                  (accepted, "fd00:32::3", "fd00:32::2")):
        if follower is accepted and not on_the_host_path:
            assert follower.ask() == []  # the connect hooks know nothing of its IPv6 address
            continue
        for each in follower.until(2):
            assert (str(each.event.local), str(each.event.peer)) == (local, peer)
            assert each.verdict is verdict
            assert each.container


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_service(machines: list[Machine], watches: list[Watch], elsewhere: bool) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1 if elsewhere else 0].container("10.32.0.3/16")
    server(there)
    follower = watches[0].follow(here)
    with machines[0].cluster.service("10.32.0.200", there.address):
        run(here, ASK, "10.32.0.200")
    for each in follower.until(2):
        assert str(each.event.peer) == "10.32.0.200"
        assert str(each.event.task) == there.address


def test_a_service_without_tasks_is_refused(machines: list[Machine], watches: list[Watch]) -> None:
    here = machines[0].container("10.32.0.2/16")
    with machines[0].cluster.service("10.32.0.200"):
        assert run(here, "print(error_of(lambda: connected('10.32.0.200', 80)))"
                   ) == "ECONNREFUSED"
    found = watches[0].refused("service_empty")
    assert (str(found.peer), found.peer_port, found.inbound, found.count) == (
        "10.32.0.200", 80, False, 1)
    assert found.container == here.endpoints[0][0].id[:12]


def test_a_host_that_is_gone(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    follower = watches[0].follow(verdict=Verdict.REFUSED)
    with dead(here, there):
        run(here, "print(error_of(lambda: connected(sys.argv[1], 80)))", there.address)
    refused, = follower.until(1)
    assert (refused.event.kind, refused.reason, str(refused.event.peer)) == (
        EventKind.REFUSED, "host_dead", there.address)
    assert watches[0].refused("host_dead").meaning


def test_nobody_listens(across: Pair, watches: list[Watch]) -> None:
    """The client's host tells of a failure, the server's why."""
    here, there = across
    follower = watches[0].follow()
    assert run(here, "print(error_of(lambda: connected(sys.argv[1], 81)))", there.address
               ) == "ECONNREFUSED"
    opened, failed = follower.until(2)
    assert (opened.event.kind, failed.event.kind, failed.verdict) == (
        EventKind.CONNECT, EventKind.FAILED, Verdict.HOST)
    found = watches[1].refused("no_listener")
    assert (found.container, found.own_port, str(found.peer), found.inbound) == (
        there.endpoints[0][0].id[:12], 81, here.address, True)


def test_nobody_answers(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    follower = watches[0].follow()
    there.machine.netns.ip("link set eth0 down")
    try:
        program = start(here, """
            c = socket.socket()
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
            print(error_of(lambda: c.connect((sys.argv[1], 80))))
        """, there.address)
        _, failed = follower.until(2)
        assert program.rest() == "ETIMEDOUT"
    finally:
        there.machine.netns.ip("link set eth0 up")
        there.machine.netns.ip("route replace default via 198.18.77.254")
    assert (failed.event.kind, failed.reason, failed.verdict) == (
        EventKind.FAILED, "syn_unanswered", Verdict.HOST)


def test_a_reset(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    server(there)
    follower = watches[0].follow()
    run(here, """
        c = connected(sys.argv[1], 80)
        assert asked(c) == b"hello"
        reset_on_close(c)
    """, there.address)
    _, closed = follower.until(2)
    assert (closed.event.ending, closed.event.received_bytes) == (Ending.RESET, 5)


def test_a_container_that_is_not_offered_any_more(across: Pair, watches: list[Watch]) -> None:
    """Its peer has not heard: the SYN is answered, and the server's host tells why."""
    here, there = across
    server(there)
    with withheld(there, Why.OWN_RULES):
        run(here, "print(error_of(lambda: connected(sys.argv[1], 80, timeout_s=3)))",
            there.address)
        found = watches[1].refused("syn_withheld")
    assert (str(found.own), found.own_port, str(found.peer)) == (there.address, 80, here.address)


def test_nobody_has_the_address(machines: list[Machine], watches: list[Watch]) -> None:
    here = machines[0].container("10.32.0.2/16")
    follower = watches[0].follow()
    program = start(here, "print(error_of(lambda: connected('10.32.0.99', 80)))")
    opened = follower.until(1)[0]
    assert program.rest() == "EHOSTUNREACH"
    assert (opened.verdict, opened.reason) == (Verdict.OVERLAY, "unknown_peer")
    found = watches[0].refused("told_unreachable")
    assert (str(found.peer), found.peer_port, found.container) == (
        "10.32.0.99", 80, here.endpoints[0][0].id[:12])


def test_filters(machines: list[Machine], watches: list[Watch]) -> None:
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    other, far = (machines[number].container(f"10.33.0.{number + 2}/16", vni=2)
                  for number in (0, 1))
    server(there)
    server(far)
    watch = watches[0]
    followers = {
        "all": watch.follow(), "container": watch.follow(here),
        "network": watch.follow(network="10.33.0.0/16"),
        "verdict": watch.follow(verdict=Verdict.OVERLAY),
        "reason": watch.follow(reason="peer_blocked")}
    client(here, there.address)
    client(other, far.address)
    with blocked(here, there):
        client(other, far.address)
    seen = {name: follower.until(count) for (name, follower), count in zip(
        followers.items(), (6, 2, 4, 2, 2), strict=True)}
    assert {str(each.event.local) for each in seen["container"]} == {here.address}
    assert {str(each.event.local) for each in seen["network"]} == {other.address}
    for name in ("verdict", "reason"):
        assert {each.reason for each in seen[name]} == {"peer_blocked"}
    assert {each.event.vni for each in seen["all"]} == {1, 2}
    for name, follower in followers.items():
        assert len(follower.ask()) == len(seen[name]), name
        assert (follower.lost, follower.paused) == (0, False)


def test_the_kernel_tells_of_one_container_only(across: Pair, watches: list[Watch]) -> None:
    """If nobody follows others: they cost nothing."""
    here, there = across
    other = here.machine.container("10.32.0.4/16")
    server(there)
    follower = watches[0].follow(here)
    client(other, there.address)
    client(here, there.address)
    follower.until(2)
    assert follower.lost == 0
    assert {str(each.event.local) for each in follower.seen} == {here.address}
    number = int(follower._next.split("-")[1])
    everybody = watches[0].follow()
    client(other, there.address)
    everybody.until(2)
    follower.ask()
    assert int(everybody._next.split("-")[1]) == number + 2


def test_a_slow_follower_is_told_what_it_lost(across: Pair, watches: list[Watch],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = across
    server(there)
    follower = watches[0].follow()
    watches[0].following._kept = type(watches[0].following._kept)(maxlen=10)
    run(here, "for _ in range(20): connected(sys.argv[1], 80).close()", there.address)
    follower.until(40)
    assert len(follower.seen) + follower.lost == 40
    assert follower.lost > 0


def test_a_ring_that_nobody_reads(across: Pair) -> None:
    """Connections are made all the same; what is lost is counted, and told."""
    here, there = across
    started(there, """
        server = listen("0.0.0.0", 80)
        ready()
        while True:
            server.accept()[0].close()
    """)
    machine = here.machine
    events = KernelEvents(machine.loaded, [each.name for each in read_reasons()])
    before = events.lost()
    events.watch(120)
    try:
        run(here, """
            for _ in range(int(sys.argv[2])):
                with connected(sys.argv[1], 80) as c:
                    assert c.recv(1) == b""
        """, there.address, 2600, timeout=120)
        lost = events.lost() - before
        assert lost > 0
        taken: list[bytes] = []
        while batch := events.take(1000):
            taken += batch
        assert len(taken) + lost == 2 * 2600
    finally:
        events.watch(0)
        events.close()


def test_nothing_is_told_while_nobody_follows(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    server(there)
    with told(there):
        client(here, there.address)
    client(here, there.address)
    follower = watches[0].follow()
    number = follower._next.split("-")[1]
    follower.ask()
    assert follower.seen == []
    assert follower._next.split("-")[1] == number


def test_a_killed_drivers_watch_ends(across: Pair) -> None:
    """Nobody extends it; the next driver reads what was left, and tells nobody."""
    here, there = across
    server(there)
    reasons = [each.name for each in read_reasons()]
    killed = KernelEvents(here.machine.loaded, reasons)
    killed.watch(0.2)
    table = here.machine.loaded.table("watch")

    def is_over() -> bool:
        killed.take(1 << 20)
        client(here, there.address)
        return not killed.take(10)

    wait_until(is_over, 20, "the watch is over")
    assert table[table.Key(0)].value > 0
    killed.close()
    with watching(here.machine) as watch:
        client(here, there.address)
        assert watch.follow().ask() == []
    assert table[table.Key(0)].value == 0
    assert WATCH_S < 5


def test_what_was_open_before_and_ends_while_somebody_looks(across: Pair, watches: list[Watch]
                                                            ) -> None:
    here, there = across
    server(there)
    program = started(here, """
        c = connected(sys.argv[1], 80)
        ready()
        sys.stdin.readline()
        c.close()
        print("done", flush=True)
    """, there.address)
    follower = watches[0].follow()
    assert program.ask() == "done"
    closed, = follower.until(1)
    assert (closed.event.kind, str(closed.event.peer), closed.verdict) == (
        EventKind.CLOSE, there.address, Verdict.HOST)
    assert closed.event.peer == ip_address(there.address)


def test_an_older_follower_has_paused(across: Pair, watches: list[Watch]) -> None:
    here, there = across
    server(there)
    follower = watches[0].follow()
    watches[0].following._until_s = 0.0  # as if it had not asked for long
    client(here, there.address)
    follower.ask()
    assert (follower.paused, follower.seen) == (True, [])
    client(here, there.address)
    follower.until(2)


def test_a_new_container_is_named_at_once(machines: list[Machine], watches: list[Watch]) -> None:
    there = machines[1].container("10.32.0.3/16")
    server(there)
    follower = watches[0].follow(verdict=Verdict.HOST)
    here = machines[0].container("10.32.0.2/16")
    client(here, there.address)
    assert {each.container for each in follower.until(2)} == {here.endpoints[0][0].id[:12]}


