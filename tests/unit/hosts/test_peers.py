"""Tests which peers are probed when, and what follows from answers; tests move the clock."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.errors import DatapathError, LinkError
from driver.model import Endpoint, EndpointId, Host, HostId, NetworkId, Vni
from driver.services.directory.publisher import Publisher
from driver.services.peers.index import CALLERS, PeerIndex
from driver.services.peers.watch import (
    ATTEMPTS,
    BLOCKED_S,
    DOUBT_S,
    FRESH_S,
    INTERVAL_S,
    OPEN_S,
    OUTAGE_S,
    WAIT_S,
    PeerWatch,
)
from driver.services.ports import Left, Presence, Probe, Reply
from tests.support.fakes.ports import FakeDatapath, Faults

ME, PEER, OTHER = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
PEER_HOST = Host(HostId("b" * 32), "peer", PEER, answers_probes=True)


def endpoint(underlay: IPv4Address, port: int, vni: int = 1) -> Endpoint:
    return Endpoint(EndpointId(f"{underlay}-{port}"), NetworkId("n"), Vni(vni), HostId(""),
                    underlay, b"\2" * 6, IPv4Interface("10.0.0.9/24"), None, port)


class World:
    """The wire, the maps and the clock that the watch sees."""

    def __init__(self, blocked: Collection[IPv4Address] = (), *, settled: bool = True) -> None:
        self.now_s = 100.0
        self.settled = settled
        self.replies: dict[IPv4Address, Reply] = {}  # PROVEN if it is not there
        self.ports: dict[int, Reply] = {}  # of single endpoints
        self.presence: dict[IPv4Address, Presence] = {}  # ANSWERED if it is not there
        self.deaf = self.full = False
        self.sent: list[Probe] = []
        self.map, self.patient = set(blocked), set[IPv4Address]()
        self.writes = 0
        self.doubts: set[tuple[IPv4Address, int]] = set()
        self.index = PeerIndex()
        self.watch = self.driver()
        self.add(ME, 61000)

    def driver(self) -> PeerWatch:
        return PeerWatch(index=self.index, syns=self, presence=self, paths=self,
                         ports="61000-65535", settled=lambda: self.settled,
                         clock=lambda: self.now_s, chance=random.Random(7))

    def add(self, underlay: IPv4Address, *ports: int, vni: int = 1) -> None:
        for port in ports:
            self.index.put(endpoint(underlay, port, vni), others=underlay != ME)

    def remove(self, underlay: IPv4Address, *ports: int, vni: int = 1) -> None:
        for port in ports:
            self.index.remove(endpoint(underlay, port, vni), others=underlay != ME)

    def live(self, *hosts: Host) -> None:
        self.watch.hosts_changed({host.id: host for host in hosts})

    def run(self) -> list[Probe]:
        """Run the watch once; return the probes that it sent."""
        self.sent.clear()
        self.watch.run()
        return list(self.sent)

    def run_for(self, seconds: float) -> int:
        """Run the watch for so long; return how many probes it sent."""
        self.sent.clear()
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += INTERVAL_S
            self.watch.run()
        return len(self.sent)

    # ports.SynProber
    def ask(self, probes: Collection[Probe], wait_s: float) -> Mapping[Probe, Reply]:
        if self.deaf:
            raise LinkError("cannot probe peers: Operation not permitted")
        self.sent += probes
        found = {probe: self.ports.get(probe.port, self.replies.get(probe.host, Reply.PROVEN))
                 for probe in probes}
        if Reply.NONE in found.values():
            self.now_s += wait_s
        return found

    # ports.Prober
    def probe(self, hosts: Collection[IPv4Address], wait_s: float
              ) -> dict[IPv4Address, Presence]:
        # The watch blocks them before it asks; connections that are being made go on.
        assert set(hosts) <= self.map
        self.patient_when_asked = self.patient & set(hosts)
        return {host: self.presence.get(host, Presence.ANSWERED) for host in hosts}

    # ports.HostPaths
    def block(self, hosts: Collection[IPv4Address],
              patient: Collection[IPv4Address] = ()) -> None:
        if self.full:
            raise DatapathError("no memory")
        self.map, self.patient, self.writes = set(hosts), set(patient), self.writes + 1

    def blocked(self) -> Collection[IPv4Address]:
        return set(self.map)

    def take_unanswered(self) -> Collection[tuple[IPv4Address, int]]:
        taken, self.doubts = self.doubts, set()
        return taken


@pytest.fixture
def world() -> World:
    """A peer that has been known for long, and answers."""
    made = World()
    made.add(PEER, 62000, 62001)
    made.live(PEER_HOST)
    made.run()
    made.run_for(FRESH_S)
    assert made.watch.describe() == "1 on the host path"
    return made


def doubt(world: World, port: int = 62000) -> None:
    """Report a real SYN without an answer, some time after the last probe."""
    world.now_s += DOUBT_S
    world.doubts.add((PEER, port))


def test_a_peer_is_probed_when_it_is_first_seen_and_then_each_minute() -> None:
    world = World()
    world.add(PEER, 62000)
    assert world.run() == [Probe(PEER, 62000, 61000)]
    assert world.run() == []
    assert 8 <= world.run_for(10 * OPEN_S) <= 13
    assert world.writes == 0


def test_only_hosts_with_a_network_in_common_are_peers() -> None:
    world = World()
    world.add(PEER, 62000, vni=2)
    world.add(OTHER, 0)
    assert world.run() == []
    assert world.watch.describe() == "0 on the host path"
    world.add(ME, 61001, vni=2)
    assert world.run() == [Probe(PEER, 62000, 61001)]
    world.remove(ME, 61001, vni=2)
    assert world.run_for(3 * OPEN_S) == 0


@pytest.mark.parametrize(("reply", "words"), [
    (Reply.NONE, "it answers pings, but no SYN of the host path"),
    (Reply.PLAIN, "SYNs of the host path are refused in its name")])
def test_who_does_not_answer_is_blocked_and_named(
        world: World, caplog: pytest.LogCaptureFixture, reply: Reply, words: str) -> None:
    world.replies[PEER] = reply
    begin_s = world.now_s
    doubt(world)
    world.run()
    assert world.map == {PEER}
    assert world.now_s - begin_s < DOUBT_S + ATTEMPTS * WAIT_S + INTERVAL_S
    assert world.watch.describe() == f"0 on the host path, 1 blocked: peer ({PEER}): {words}"
    assert world.watch.explain(PEER).startswith(f"{words}; is there a firewall between")
    assert {verdict for verdict, count in world.watch.counts().items() if count} == {
        "dropped" if reply is Reply.NONE else "refused"}
    record, = caplog.records
    assert record.levelname == "WARNING"
    assert f"host peer ({PEER}): {words}; " in record.getMessage()
    assert "TCP 61000-65535" in record.getMessage()
    assert "TCP option 254" in record.getMessage()
    writes = world.writes
    world.run_for(10 * BLOCKED_S)
    assert (len(caplog.records), world.writes) == (1, writes)


def test_one_answer_ends_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.replies[PEER] = Reply.NONE
    doubt(world)
    world.run()
    del world.replies[PEER]
    world.run_for(BLOCKED_S + INTERVAL_S)
    assert world.map == set()
    assert world.watch.describe() == "1 on the host path"
    assert world.watch.explain(PEER) == ""
    assert "again" in caplog.records[-1].getMessage()


def test_lost_packets_block_nobody(world: World) -> None:
    for lost in ({62000: Reply.NONE}, {62001: Reply.NONE}):
        world.ports = lost
        world.run_for(2 * OPEN_S)
    assert world.writes == 0


def test_real_syns_without_an_answer_ask_for_a_probe_at_once(world: World) -> None:
    doubt(world, 62001)
    assert {probe.port for probe in world.run()} == {62000, 62001}
    assert world.watch.describe() == "1 on the host path"  # the cause may be a busy listener
    world.doubts.add((PEER, 62001))
    assert world.run() == []  # not more often
    assert world.run_for(DOUBT_S) == 2
    world.doubts.add((OTHER, 62001))  # not a peer
    assert world.run_for(DOUBT_S) == 0


def test_an_endpoint_port_that_is_not_reached(world: World) -> None:
    """A firewall lets only other ports pass."""
    world.ports = {62001: Reply.NONE}
    doubt(world, 62001)
    world.run()
    assert world.map == {PEER}
    assert "endpoint ports 62001 are not reached, others are" in world.watch.describe()
    world.run_for(3 * BLOCKED_S)
    assert world.map == {PEER}
    world.remove(PEER, 62001)
    world.run_for(2 * BLOCKED_S)
    assert world.map == set()


def test_an_older_peer_cannot_prove_anything() -> None:
    """Any refusal counts as its answer; one of its containers may drop everything."""
    world = World()
    world.add(PEER, 62000, 62001)
    world.live(Host(HostId("b" * 32), "peer", PEER))
    world.replies[PEER] = Reply.PLAIN
    world.run()
    world.run_for(FRESH_S)
    assert world.watch.describe() == "1 on the host path"
    world.ports = {62001: Reply.NONE}
    doubt(world, 62001)
    world.run()
    assert world.map == set()
    world.ports[62000] = Reply.NONE
    doubt(world, 62001)
    world.run()
    assert world.map == {PEER}


def test_who_has_proved_it_once_has_to() -> None:
    """This holds without a record that says it can, as etcd is away."""
    world = World()
    world.add(PEER, 62000)
    world.run()
    world.replies[PEER] = Reply.PLAIN
    doubt(world)
    world.run()
    assert world.map == {PEER}
    world.live(Host(PEER_HOST.id, "peer", PEER))  # it now runs an older slim
    world.run_for(BLOCKED_S + INTERVAL_S)
    assert world.map == set()


def test_each_attempt_is_in_another_endpoints_name(world: World) -> None:
    """The peer may not know the newest endpoint."""
    world.add(ME, 61001, 61002, 61003)
    world.replies[PEER] = Reply.NONE
    doubt(world)
    asked = [probe.caller for probe in world.run() if probe.port == 62000]
    assert asked == [61000, 61001, 61002]
    assert CALLERS == len(asked) == ATTEMPTS


def test_a_fresh_peer_is_given_time(caplog: pytest.LogCaptureFixture) -> None:
    """It may not know this host's first endpoint yet."""
    world = World()
    world.add(PEER, 62000)
    world.replies[PEER] = Reply.NONE
    world.run()
    assert world.watch.describe() == "0 on the host path, 1 not probed yet"
    assert world.watch.counts() == {"open": 0, "unprobed": 1, "unknown": 0, "dropped": 0,
                                    "refused": 0, "partly": 0, "silent": 0}
    del world.replies[PEER]
    world.run_for(FRESH_S)
    assert world.watch.describe() == "1 on the host path"
    assert world.watch.counts()["open"] == 1
    assert (world.writes, caplog.records) == (0, [])


@pytest.mark.parametrize("sign", ["time", "a real connection"])
def test_a_fresh_peer_that_stays_silent(sign: str) -> None:
    world = World()
    world.add(PEER, 62000)
    world.replies[PEER] = Reply.NONE
    world.run()
    if sign == "time":
        world.run_for(FRESH_S + DOUBT_S)
    else:
        doubt(world)
        world.run()
    assert world.map == {PEER}


def test_a_dead_host_is_somebody_elses_matter(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.replies[PEER], world.presence[PEER] = Reply.NONE, Presence.SILENT
    world.live()
    doubt(world)
    world.run()
    assert (world.map, world.patient) == ({PEER}, set())  # pending connections to it end sooner
    assert world.watch.describe() == "0 on the host path"
    assert caplog.records == []
    # Once it is back, it is probed at once.
    del world.replies[PEER]
    world.live(PEER_HOST)
    world.run()
    assert world.map == set()


def test_a_silent_host_with_a_lease_is_named(
        world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.replies[PEER], world.presence[PEER] = Reply.NONE, Presence.ABSENT
    doubt(world)
    world.run()
    assert "it answers nothing, neither pings nor SYNs" in world.watch.describe()
    assert "the way to it cut?" in caplog.records[-1].getMessage()


def test_connections_that_are_being_made_outlive_an_outage(world: World) -> None:
    """Only new ones take the overlay path; the host's own programs would keep waiting, too."""
    world.replies[PEER], world.presence[PEER] = Reply.NONE, Presence.SILENT
    doubt(world)
    world.run()
    assert world.patient_when_asked == {PEER}
    assert (world.map, world.patient) == ({PEER}, {PEER})
    world.run_for(OUTAGE_S - 5)
    assert world.patient == {PEER}
    world.run_for(10)
    assert (world.map, world.patient) == ({PEER}, set())  # patience ends before two minutes
    del world.replies[PEER], world.presence[PEER]
    world.run_for(BLOCKED_S + 1)
    assert (world.map, world.patient) == (set(), set())


def test_behind_a_firewall_they_fail_fast(world: World) -> None:
    world.replies[PEER] = Reply.NONE  # but it answers pings
    doubt(world)
    world.run()
    assert world.patient_when_asked == {PEER}
    assert (world.map, world.patient) == ({PEER}, set())
    # This stays so through repeated probes.
    world.run_for(2 * BLOCKED_S)
    assert (world.patient_when_asked, world.patient) == (set(), set())


def test_peers_that_go_leave_nothing(world: World) -> None:
    world.replies[PEER] = Reply.NONE
    doubt(world)
    world.run()
    world.remove(PEER, 62000, 62001)
    world.run()
    assert world.map == set()
    assert world.watch.describe() == "0 on the host path"
    assert world.run_for(3 * OPEN_S) == 0
    assert world.index.hosts() == set()


def test_a_new_driver_goes_on_where_the_old_one_was() -> None:
    world = World({PEER, OTHER}, settled=False)
    world.replies[PEER] = Reply.NONE
    world.run_for(3 * OPEN_S)
    assert world.map == {PEER, OTHER}  # etcd is away, so nothing is known of them
    world.add(PEER, 62000)
    world.run()
    assert world.map == {PEER, OTHER}  # though it is a fresh peer
    assert "1 blocked" in world.watch.describe()
    world.settled = True
    world.run_for(OPEN_S + INTERVAL_S)
    assert world.map == {PEER}  # the other one is no longer a peer
    del world.replies[PEER]
    world.run_for(BLOCKED_S + INTERVAL_S)
    assert world.map == set()


def test_who_cannot_ask_judges_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.deaf = True
    world.run_for(3 * OPEN_S)
    assert (world.map, world.writes) == (set(), 0)
    assert len(caplog.records) == 1
    assert "cannot probe peers" in world.watch.describe()
    world.deaf = False
    world.replies[PEER] = Reply.UNSENT
    world.run_for(3 * OPEN_S)
    assert world.writes == 0
    assert "own packet filter" in world.watch.describe()
    del world.replies[PEER]
    world.run_for(2 * OPEN_S)
    assert world.watch.describe() == "1 on the host path"


def test_what_the_maps_refuse_is_tried_again(world: World) -> None:
    world.full = True
    world.replies[PEER] = Reply.NONE
    doubt(world)
    with pytest.raises(DatapathError):
        world.run()
    world.full = False
    world.run()
    assert world.map == {PEER}


def test_fifty_peers_are_next_to_nothing() -> None:
    """Each gets two SYNs a minute, and not all at once."""
    world = World()
    for number in range(50):
        world.add(IPv4Address(f"192.0.2.{100 + number}"), *range(62000, 62200))
    world.run()
    assert world.run_for(10 * OPEN_S) <= 50 * 2 * 14
    sent = [world.run_for(INTERVAL_S) for _ in range(1000)]
    assert 0 < max(sent) < 20


def test_index_forgets_what_it_was_told() -> None:
    index = PeerIndex()
    mine, theirs = endpoint(ME, 61000), endpoint(PEER, 62000)
    index.remove(theirs, others=True)
    index.put(theirs, others=True)
    assert index.hosts() == set()
    index.put(mine, others=False)
    assert index.hosts() == {PEER}
    assert [target.port for target in index.targets(PEER, {62000, 5}, lambda _: 0)] == [62000]
    for number in range(1, 4):
        index.put(endpoint(PEER, 62000 + number), others=True)
    for chance in range(4):  # always two
        ports = [t.port for t in index.targets(PEER, (), lambda n, c=chance: min(c, n - 1))]  # type: ignore[misc]
        assert ports == [62000, 62000 + (chance or 1)]
    index.put(endpoint(ME, 61001, vni=2), others=False)
    index.put(endpoint(PEER, 62009, vni=2), others=True)
    assert [t.port for t in index.targets(PEER, (), lambda n: n - 1)] == [62000, 62009]
    for number in range(1, 4):
        index.remove(endpoint(PEER, 62000 + number), others=True)
    assert [t.port for t in index.targets(PEER, (), lambda _: 0)] == [62000, 62009]
    index.remove(endpoint(PEER, 62009, vni=2), others=True)
    assert index.targets(OTHER, (), lambda _: 0) == []
    index.remove(theirs, others=True)
    assert index.hosts() == set()


def test_the_publisher_tells_the_index_what_the_maps_have() -> None:
    index = PeerIndex()
    publisher = Publisher(FakeDatapath(Faults()), HostId("me"), index)  # type: ignore[arg-type]
    mine, theirs, other = (
        replace(endpoint(host, port), address=IPv4Interface(address)) for host, port, address in (
            (ME, 61000, "10.0.0.1/24"), (PEER, 62000, "10.0.0.2/24"),
            (OTHER, 62000, "10.0.0.3/24")))
    mine = replace(mine, host=HostId("me"))
    publisher.snapshot(Vni(1), [mine, theirs], 5)
    publisher.put(other)
    assert index.hosts() == {PEER, OTHER}
    publisher.put(replace(other, port=0))  # it no longer has a host path
    assert index.hosts() == {PEER}
    publisher.missing(Vni(1), theirs.id, 6)
    assert index.hosts() == {PEER}
    publisher.left(Vni(1), theirs)
    assert index.hosts() == set()
    publisher.put(theirs)
    assert index.targets(PEER, (), lambda _: 0)[0].callers == (61000,)
    publisher.snapshot(Vni(1), [theirs, Left(mine)], 7)
    assert index.hosts() == set()
