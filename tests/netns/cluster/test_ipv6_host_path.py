"""Tests drivers over an IPv6 underlay whose containers have IPv6: the host path between them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from itertools import count

import pytest

from driver.store.format import keys, records
from tests.netns import talk
from tests.netns.cluster.etcd_world import LONG_S, Box, running_world
from tests.netns.cluster.test_ipv6_underlay import PREFIX, World6
from tests.netns.underlay.test_blocked_peers import PORTS, firewall, wait_blocked, wait_open
from tests.support.run.wait import wait_until
from tests.support.world.etcd import live
from tests.support.world.served import Host

pytestmark = pytest.mark.timeout(900)

FLOW6 = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6, timeout_s=20)
    ready()
    for line in sys.stdin:
        print(len(asked(c, line.encode() * 100)), flush=True)
"""
CALL6 = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6, timeout_s=90)
    print(asked(c).decode(), c.getpeername()[0], c.getsockname()[0])
"""


class WorldWith6(World6):
    """The same hosts; each container has an IPv6 address, too."""

    def attach(self, host: Host, prepare: Callable[..., object] | None = None, **chosen: str
               ) -> Box:
        self._numbers = getattr(self, "_numbers", None) or count(2)
        self.address6 = getattr(self, "address6", None) or {}
        address6 = f"fd00:50::{next(self._numbers)}"
        box = super().attach(host, prepare, address6=f"{address6}/64", **chosen)
        self.address6[box.endpoint] = address6
        return box

    def detach(self, box: Box) -> None:
        super().detach(box)
        box.host.dockerd.ok("IpamDriver.ReleaseAddress", Address=self.address6[box.endpoint],
                            PoolID="slim-local/fd00:50::/64")

    def _serve_and_connect(self) -> None:
        first, second = self.boxes
        for box in self.boxes:
            assert self.program(box, 'serve(listen("::", 80, family=socket.AF_INET6))'
                                ).line() == "ready"
        wait_until(self.converged, LONG_S, "both hosts know both endpoints")
        wait_open(*self.hosts)
        self._flow = self.program(first, FLOW6, self.address6[second.endpoint])
        assert self._flow.line() == "ready"

    def converged(self) -> bool:
        found = [records.decode(entry, records.endpoint)
                 for entry in live(self.cluster.entries(keys.ENDPOINTS))]
        return all(each.port and each.takes_ipv6 for each in found) and {
            each.underlay for each in found} == {
            IPv6Address(f"{PREFIX}::{n}") for n in (1, 2)} and all(
            host.status()["directory"].startswith("2 endpoints") for host in self.hosts)

    def assert_new_connections(self) -> None:
        for client, server in (self.boxes, self.boxes[::-1]):
            grown = self.call6(client, server)
            assert grown in ({"connected": 1, "accepted": 1}, {"connected": 1}, {"accepted": 1}, {})
            running = [client.host.running(), server.host.running()]
            assert sum(grown.values()) == sum(running)

    def call6(self, client: Box, server: Box) -> dict[str, int]:
        """Connect; return which of these counters grew at hosts whose driver runs."""
        names = ("connected", "accepted", "peer_blocked", "overlay_only", "routing_lost",
                 "ipv6_underlay", "own_rules")
        hosts = [host for host in self.hosts if host.running()]
        before = [host.counters() for host in hosts]
        to, own = (self.address6[box.endpoint] for box in (server, client))
        assert talk.run(self.container(client), CALL6, to, timeout=120) == f"hello {to} {own}"
        grown = {name: sum(host.counters()[name] - old[name]
                           for host, old in zip(hosts, before, strict=True)) for name in names}
        return {name: number for name, number in grown.items() if number}


@pytest.fixture(scope="module")
def running6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldWith6]:
    with running_world(tmp_path_factory.mktemp("world6"), WorldWith6) as made:
        yield made


@pytest.fixture
def world(running6: WorldWith6) -> Iterator[WorldWith6]:
    yield running6
    running6.wait_converged()


@contextmanager
def away(world: WorldWith6) -> Iterator[None]:
    """End both drivers for a while."""
    for host in world.hosts:
        host.end_driver(signal.SIGKILL)
    try:
        yield
    finally:
        for host in world.hosts:
            host.start_driver()
        for host in world.hosts:
            wait_until(lambda h=host: h.status()["recovery"] == "done", LONG_S,  # type: ignore[misc]
                       "the driver reads etcd")


def test_what_the_drivers_say(world: WorldWith6) -> None:
    for number, (host, box) in enumerate(zip(world.hosts, world.boxes, strict=True), 1):
        status = host.status()
        assert status["host path"] == "all 1 sandboxes"
        assert status["peers"] == "1 on the host path"
        assert status["outstanding"] == "nothing: every step has been done"
        assert f"from {PREFIX}::{number} iif lo lookup" in box.netns.ip("-6 rule show")
        assert f"{PREFIX}::" not in box.netns.ip("-6 addr show")
        rules = host.netns.run("nft", "list", "table", "ip6", "slim").stdout
        assert rules.count("drop") == 5
        assert f"snat to [{PREFIX}::{number}]" in rules
    world.assert_data_path()


def test_ipv4_takes_the_overlay(world: WorldWith6) -> None:
    here, there = world.boxes
    before = here.host.counters()["ipv6_underlay"]
    for address in (there.ip, f"::ffff:{there.ip}"):
        talk.client(world.container(here), address)
    assert here.host.counters()["ipv6_underlay"] == before + 2


def test_drivers_are_killed_and_start_again(world: WorldWith6) -> None:
    with away(world):
        world.assert_data_path()
    world.assert_data_path()


def test_a_container_comes_and_goes(world: WorldWith6) -> None:
    """Whose namespace stays keeps nothing of the host path."""
    first, box = world.boxes[0], world.attach(world.hosts[1])
    before = box.netns.ip("-6 rule show")
    try:
        server = world.program(box, 'serve(listen("::", 80, family=socket.AF_INET6))')
        assert server.line() == "ready"
        wait_until(lambda: world.hosts[0].status()["directory"].startswith("3 endpoints"), LONG_S,
                   "the other host hears of it")
        assert world.call6(first, box) == {"connected": 1, "accepted": 1}
        server.end()
    finally:
        world.detach(box)
    assert PREFIX in before
    wait_until(lambda: PREFIX not in box.netns.ip("-6 rule show"), LONG_S, "its rules to go")
    assert box.netns.ip("-6 rule show").startswith("0:")
    assert PREFIX not in box.netns.ip("-6 route show table all")
    assert box.netns.run("sysctl", "-n", "net.ipv6.ip_nonlocal_bind").stdout.strip() == "0"


@pytest.mark.parametrize("command", [
    "-6 rule del pref 10", "-6 rule del pref 20", f"-6 route del local {PREFIX}::1 table local",
    "-6 route flush table 20765", "setting"])
def test_what_a_container_loses_is_put_back(world: WorldWith6, command: str) -> None:
    box = world.boxes[0]
    rules, routes = box.netns.ip("-6 rule show"), box.netns.ip("-6 route show table 20765")
    if command == "setting":
        box.netns.sysctl("ipv6.ip_nonlocal_bind", 0)
        assert world.call6(*world.boxes) == {"routing_lost": 1}
        box.netns.ip("-6 rule add pref 99 lookup 99")  # nobody tells of settings: a look at once
        box.netns.ip("-6 rule del pref 99")
    else:
        box.netns.ip(command)
    wait_until(lambda: (box.netns.ip("-6 rule show"), box.netns.ip("-6 route show table 20765"))
               == (rules, routes) and world.call6(*world.boxes) == {
               "connected": 1, "accepted": 1}, LONG_S, "it is put back")
    assert f"local {PREFIX}::1" in box.netns.ip("-6 route show table local")


def test_a_firewall_for_endpoint_ports(world: WorldWith6) -> None:
    here, there = world.hosts
    with firewall(world.wire, f"ip6 nexthdr tcp tcp dport {PORTS} drop"):
        assert f"({PREFIX}::2): it answers pings, but no SYN of the host path" in wait_blocked(
            here, there)
        wait_blocked(there, here)
        assert world.call6(*world.boxes) == {"peer_blocked": 1}
    wait_open(here, there)


def test_rules_of_a_containers_own(world: WorldWith6) -> None:
    box = world.boxes[1]
    box.netns.run("ip6tables-nft", "-A", "INPUT", "-s", "fd00::9", "-j", "DROP")
    try:
        wait_until(lambda: world.offered_port(box) == 0, LONG_S, "peers to be told")
        wait_until(lambda: world.call6(*world.boxes) == {"overlay_only": 1}, LONG_S, "the overlay")
    finally:
        box.netns.run("ip6tables-nft", "-F")
    wait_until(lambda: world.offered_port(box) != 0, LONG_S, "peers to be told again")
    wait_until(lambda: "connected" in world.call6(*world.boxes), LONG_S, "the host path")


def test_an_address_moves(world: WorldWith6) -> None:
    """The driver starts anew with it; its containers' rules follow, and what was open ends."""
    second, box = world.hosts[1], world.boxes[1]

    def moved(before: str, after: str) -> None:
        second.netns.ip(f"addr add {PREFIX}::{after}/64 dev eth0 nodad")
        second.netns.ip(f"addr del {PREFIX}::{before}/64 dev eth0")
        wait_until(lambda: world.record(box).underlay == IPv6Address(f"{PREFIX}::{after}"), LONG_S,
                   "the record to follow")
        wait_until(lambda: f"from {PREFIX}::{after} " in (rules := box.netns.ip("-6 rule show"))
                   and f"{PREFIX}::{before} " not in rules, LONG_S, "rules to follow")
        wait_until(lambda: world.call6(*world.boxes) == {"connected": 1, "accepted": 1}, LONG_S,
                   "connections to follow")

    moved("2", "22")
    moved("22", "2")
    world._flow.end()
    world._flow = world.program(world.boxes[0], FLOW6, world.address6[box.endpoint])
    assert world._flow.line() == "ready"


def test_slim_ss(world: WorldWith6) -> None:
    here, there = world.boxes
    shown = here.host.dockerd.ok("Slim.Sockets", Listening=False)["Sockets"]
    assert (world.address6[there.endpoint], "host") in [
        (each["Peer"], each["Path"]) for each in shown if each["State"] == "ESTAB"]
    assert f"{PREFIX}::1" not in str([each["Local"] for each in shown])
