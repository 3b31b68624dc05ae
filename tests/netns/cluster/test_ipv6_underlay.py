"""Tests drivers whose hosts' network has IPv6 only, and a host of the other family among them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from driver.store.format import keys, records
from tests.netns import talk
from tests.netns.attacks.attack import mac, send
from tests.netns.cluster.etcd_world import LONG_S, Box, World, running_world
from tests.support.run.wait import wait_until
from tests.support.world.etcd import live
from tests.support.world.netns import Netns
from tests.support.world.served import Host, create_network, delete_network

pytestmark = pytest.mark.timeout(900)

PREFIX = "fd00:198:18:7"


class World6(World):
    """Two hosts whose network has IPv6 only; etcd is reached by another one."""

    underlay = "eth0/ipv6"

    def address(self, namespace: Netns, number: int) -> None:
        namespace.ip(f"addr add {PREFIX}::{number}/64 dev eth0")  # tentative when the driver starts

    def converged(self) -> bool:
        on_record = {(endpoint.underlay, endpoint.port) for endpoint in (
            records.decode(entry, records.endpoint)
            for entry in live(self.cluster.entries(keys.ENDPOINTS)))}
        return on_record == {(IPv6Address(f"{PREFIX}::{n}"), 0) for n in (1, 2)} and all(
            host.status()["directory"].startswith("2 endpoints") for host in self.hosts)

    def assert_new_connections(self) -> None:
        for client, server in (self.boxes, self.boxes[::-1]):
            before = client.host.counters() if client.host.running() else {}
            assert self.call(client, server) == "hello"
            if before:
                after = client.host.counters()
                assert after["ipv6_underlay"] == before["ipv6_underlay"] + 1
                assert after["connected"] == before["connected"] == 0

    def call(self, client: Box, server: Box) -> str:
        return talk.run(self.container(client), """
            print(asked(connected(sys.argv[1], 80, timeout_s=20)).decode())
            """, server.ip)


@pytest.fixture(scope="module")
def running6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World6]:
    with running_world(tmp_path_factory.mktemp("world6"), World6) as made:
        yield made


@pytest.fixture
def world(running6: World6) -> Iterator[World6]:
    yield running6
    running6.wait_converged()


def test_what_the_drivers_say(world: World6) -> None:
    for number, host in enumerate(world.hosts, 1):
        wait_until(lambda h=host: h.status()["guard"].startswith("1 hosts"), 30,  # type: ignore[misc]
                   "the peer is guarded")
        status = host.status()
        assert status["underlay"] == f"{PREFIX}::{number} on eth0, MTU 1500"
        assert status["host path"] == "all 1 sandboxes"
        assert status["peers"] == "0 on the host path"  # no container has an IPv6 address
        assert status["hosts"] == "2 registered, 0 absent, 0 gone"
        assert status["outstanding"] == "nothing: every step has been done"
        assert "table ip6 slim" in host.netns.run("nft", "list", "ruleset").stdout
    for box in world.boxes:
        assert "198.18" not in box.netns.ip("rule show")
        assert "slim-sandbox" not in box.netns.run("nft", "list", "ruleset").stdout
        assert "mtu 1430" in box.netns.ip("route show 10.50.0.0/16")
    world.assert_data_path()


def test_ping_and_large_datagrams(world: World6) -> None:
    here, there = world.boxes
    for size in (56, 1402, 20000):
        world.container(here).run("ping", "-c1", "-W5", "-s", str(size), there.ip)


def test_a_router_carries_less(world: World6) -> None:
    """It says so once something was too long: then all containers of that host send less."""
    here, there = world.boxes
    host = here.host.netns
    quoted = IPv6(src=f"{PREFIX}::1", dst=f"{PREFIX}::2") / UDP(sport=40000, dport=14789) / VXLAN(
        flags=8, vni=1) / Raw(bytes(100))
    try:
        send(world.wire, Ether(dst=mac(host)) / IPv6(src=f"{PREFIX}::99", dst=f"{PREFIX}::1")
             / ICMPv6PacketTooBig(mtu=1400) / Raw(bytes(quoted)), interface="br0")
        wait_until(lambda: "mtu 1330" in here.netns.ip("route show 10.50.0.0/16"), LONG_S,
                   "containers to be told")
        assert "mtu 1330" in host.ip("link show slim-vxlan")
        assert here.host.status()["underlay"].endswith("MTU 1500; 1400 on the way to a host")
        assert "carries 1400 bytes" in here.host.log()
        container = world.container(here)
        container.run("ping", "-c1", "-W5", "-M", "do", "-s", str(1330 - 28), there.ip)
        container.run("ping", "-c1", "-W5", "-s", "1400", there.ip)
        world.assert_data_path()
        assert "mtu 1430" in there.netns.ip("route show 10.50.0.0/16")
    finally:
        host.sysctl("ipv6.route.flush", 1)
        world.restart(here.host)
    wait_until(lambda: "mtu 1430" in here.netns.ip("route show 10.50.0.0/16"), LONG_S,
               "the next driver to begin anew")


def test_a_driver_is_killed_and_starts_again(world: World6) -> None:
    for host in world.hosts:
        host.end_driver(signal.SIGKILL)
    world.assert_data_path()
    for host in world.hosts:
        host.start_driver()
        wait_until(lambda h=host: h.status()["recovery"] == "done", LONG_S,  # type: ignore[misc]
                   "the driver reads etcd")
    world.assert_data_path()


def test_a_container_comes_and_goes(world: World6) -> None:
    box = world.attach(world.hosts[1])
    try:
        server = world.program(box, 'serve(listen("0.0.0.0", 80))')
        assert server.line() == "ready"
        wait_until(lambda: world.hosts[0].status()["directory"].startswith("3 endpoints"), LONG_S,
                   "the other host hears of it")
        assert world.call(world.boxes[0], box) == "hello"
        assert world.offered_port(box) == 0
        server.end()
    finally:
        world.detach(box)


def test_records_are_lost_and_spoilt(world: World6) -> None:
    """What is known is kept; the owner enters it again, or what is spoilt stays and is named."""
    here, there = world.boxes
    record = next(entry for entry in live(world.cluster.entries(keys.ENDPOINTS))
                  if there.endpoint in entry.key)
    with world.cut_off(2):
        world.cluster.etcdctl("del", record.key)
        wait_until(lambda: "in doubt" in here.host.status()["directory"], LONG_S, "a doubt")
        assert f"h2 ({PREFIX}::2" in here.host.status()["directory"] or (
            f"{PREFIX}::2" in here.host.status()["directory"])
        world.assert_data_path()
    world.wait_converged()
    fields = json.loads(record.value)
    for underlay in ("fe80::2", "::ffff:198.18.7.2", "nonsense"):
        world.cluster.etcdctl("put", record.key, json.dumps({**fields, "underlay": underlay}))
        wait_until(lambda: "cannot be read" in here.host.status()["directory"], LONG_S,
                   "the record to be named")
        world.assert_data_path()
    world.cluster.etcdctl("put", record.key, record.value.decode())
    wait_until(lambda: "cannot be read" not in here.host.status()["directory"], LONG_S,
               "it to be read again")


@contextmanager
def third_host(world: World6, folder: Path) -> Iterator[Host]:
    """One more host, whose underlay is IPv4."""
    folder.mkdir()
    with ExitStack() as stack:
        host = world.add_host(stack, 3, folder, world.authority.issue("third"))
        host.netns.ip("addr add 198.18.7.3/24 dev eth0")
        host.underlay = "198.18.7.3"
        host.start_driver()
        wait_until(lambda: host.status()["recovery"] == "done", LONG_S, "the driver reads etcd")
        create_network(host)
        try:
            yield host
        finally:
            delete_network(host)
            host.end_driver(signal.SIGTERM)


def test_a_host_of_the_other_family(world: World6, tmp_path: Path) -> None:
    """All say so; nothing of it enters the maps, and nothing that runs is cut."""
    with third_host(world, tmp_path / "third") as other:
        box = world.attach(other)
        try:
            for host in world.hosts:
                wait_until(lambda h=host: "1 left out: this host's underlay does not reach theirs"  # type: ignore[misc]
                           in h.status()["directory"], LONG_S, "it to be left out")
                assert "1 out of reach, whose underlay is IPv4 and this host's IPv6 (" in (
                    host.status()["hosts"])
                assert "(198.18.7.3)" in host.status()["hosts"]
                assert host.status()["directory"].startswith("2 endpoints")
                assert host.status()["guard"].startswith("1 hosts")
                assert "has an underlay of IPv4, this host one of IPv6" in host.log()
            wait_until(lambda: "2 left out" in other.status()["directory"], LONG_S,
                       "it to leave the others out, too")
            assert "2 out of reach, whose underlay is IPv6 and this host's IPv4" in (
                other.status()["hosts"])
            assert other.status()["guard"].startswith("0 hosts")
            before = world.hosts[0].counters()
            failed = world.container(world.boxes[0]).run("ping", "-c1", "-W1", box.ip, check=False)
            assert failed.returncode != 0
            assert talk.run(world.container(world.boxes[0]), """
                try:
                    connected(sys.argv[1], 80, timeout_s=20)
                except OSError as error:
                    print(error.errno)
            """, box.ip) == "113"
            after = world.hosts[0].counters()
            assert after["unknown_peer"] == before["unknown_peer"] + 1
            assert after["overlay_sent"] == before["overlay_sent"]
            world.assert_data_path()
            for host in (*world.hosts, other):
                assert "Traceback" not in host.log()
        finally:
            world.detach(box)


def test_a_host_changes_to_ipv4_and_back(world: World6) -> None:
    """Its containers stay; while it is on the other side, nothing reaches them, and all say so."""
    first, second = world.hosts
    second.netns.ip("addr add 198.18.7.2/24 dev eth0")
    second.end_driver(signal.SIGTERM)
    second.underlay = "198.18.7.2"
    try:
        second.start_driver()
        wait_until(lambda: second.status()["recovery"] == "done", LONG_S, "the driver reads etcd")
        wait_until(lambda: "1 left out" in first.status()["directory"], LONG_S, "it to be left out")
        wait_until(lambda: "1 left out" in second.status()["directory"], LONG_S, "the other, too")
        wait_until(lambda: world.offered_port(world.boxes[1]) != 0, LONG_S, "its host path")
        assert "198.18.7.2" in world.boxes[1].netns.ip("rule show")
        assert "table ip6 slim" not in second.netns.run("nft", "list", "ruleset").stdout
    finally:
        second.end_driver(signal.SIGTERM)
        second.underlay = "eth0/ipv6"
        second.start_driver()
    wait_until(lambda: second.status()["recovery"] == "done", LONG_S, "the driver reads etcd")
    wait_until(lambda: "198.18.7.2" not in world.boxes[1].netns.ip("rule show"), LONG_S,
               "the rules of before to go")
    assert "table ip slim" not in second.netns.run("nft", "list", "ruleset").stdout
    second.netns.ip("addr del 198.18.7.2/24 dev eth0")


def test_an_address_moves(world: World6) -> None:
    """The driver starts anew with it, and all maps follow."""
    second = world.hosts[1]
    second.netns.ip(f"addr add {PREFIX}::22/64 dev eth0 nodad")
    second.netns.ip(f"addr del {PREFIX}::2/64 dev eth0")

    def moved(number: str) -> bool:
        return all(endpoint.underlay == IPv6Address(f"{PREFIX}::{number}") for endpoint in (
            records.decode(entry, records.endpoint)
            for entry in live(world.cluster.entries(keys.ENDPOINTS)))
            if endpoint.id == world.boxes[1].endpoint)

    wait_until(lambda: moved("22"), LONG_S, "the record to follow")
    wait_until(lambda: world.container(world.boxes[0]).run(
        "ping", "-c1", "-W1", world.boxes[1].ip, check=False).returncode == 0, LONG_S,
        "packets to follow")
    second.netns.ip(f"addr add {PREFIX}::2/64 dev eth0 nodad")
    second.netns.ip(f"addr del {PREFIX}::22/64 dev eth0")
    wait_until(lambda: moved("2"), LONG_S, "the record to follow")
