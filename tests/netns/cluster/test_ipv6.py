"""Tests that drivers agree on who takes IPv6 connections on the host path, and while it changes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from driver.store.format import keys
from tests.netns import talk
from tests.netns.cluster.etcd_world import LONG_S, Box, World
from tests.support.faults.spoilt_data import NO_IPV6, with_fields
from tests.support.run.wait import wait_until

pytestmark = pytest.mark.timeout(600)

HERE6, THERE6 = "fd00:50::2", "fd00:50::3"
FLOW6 = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6, timeout_s=20)
    ready()
    for line in sys.stdin:
        print(len(asked(c, line.encode() * 100)), flush=True)
"""
SET_OPTION = "socket.socket(socket.AF_INET6).setsockopt(socket.IPPROTO_IPV6, 73, 1)"  # MINHOPCOUNT


@dataclass
class Pair:
    """A client, and a server at [::]:80 on another host."""

    world: World
    here: Box
    there: Box

    def call(self, *, ipv6: bool = True) -> dict[str, int]:
        """Connect; return how much the two hosts' counters grew, by name."""
        hosts = self.world.hosts
        own, peer = (HERE6, THERE6) if ipv6 else (self.here.ip, self.there.ip)
        before = [host.counters() for host in hosts]
        assert talk.run(self.world.container(self.here), """
            c = connected(sys.argv[1], 80, family=int(sys.argv[2]))
            print(asked(c).decode(), c.getpeername()[0], c.getsockname()[0])
        """, peer, int(socket.AF_INET6 if ipv6 else socket.AF_INET)) == f"hello {peer} {own}"
        return {name: sum(host.counters()[name] - old[name]
                          for host, old in zip(hosts, before, strict=True))
                for name in ("connected", "accepted", "overlay_only", "own_rules")}

    def takes_ipv6(self) -> bool:
        """Return whether the server's record says that peers may call it."""
        record = self.world.record(self.there)
        return record.takes_ipv6 and record.port != 0

    def wait(self, counter: str) -> None:
        """Wait until calls take the path that this counter stands for."""
        wait_until(lambda: self.call()[counter] == 1, LONG_S, counter)


@pytest.fixture
def pair(world: World) -> Iterator[Pair]:
    here, there = (world.attach(host, address6=f"{address}/64")
                   for host, address in zip(world.hosts, (HERE6, THERE6), strict=True))
    server = world.program(there, 'serve(listen("::", 80, family=socket.AF_INET6))')
    try:
        assert server.line() == "ready"
        found = Pair(world, here, there)
        found.wait("accepted")
        yield found
    finally:
        server.end()
        for box, address in ((here, HERE6), (there, THERE6)):
            world.detach(box)
            box.host.dockerd.ok("IpamDriver.ReleaseAddress", Address=address,
                                PoolID="slim-local/fd00:50::/64")


def test_from_the_start(pair: Pair) -> None:
    assert pair.takes_ipv6()
    assert pair.call() == {"connected": 1, "accepted": 1, "overlay_only": 0, "own_rules": 0}


def test_after_a_restart_of_both_drivers(pair: Pair) -> None:
    for host in pair.world.hosts:
        pair.world.restart(host)
    assert pair.takes_ipv6()
    assert pair.call() == {"connected": 1, "accepted": 1, "overlay_only": 0, "own_rules": 0}


def test_a_record_that_is_spoilt(pair: Pair) -> None:
    """Peers take the overlay by IPv6, all else stays, and when it is right again so are they."""
    cluster, record = pair.world.cluster, pair.world.record(pair.there)
    (entry,) = cluster.entries(keys.endpoint(record.vni, record.id))
    flow = pair.world.program(pair.here, FLOW6, THERE6)
    assert flow.line() == "ready"
    for spoilt in NO_IPV6:
        value = with_fields(entry.value, {"takes_ipv6": spoilt})
        cluster.etcdctl("put", entry.key, text=value.decode())
        pair.wait("overlay_only")
        assert pair.call(ipv6=False)["accepted"] == 1
        assert flow.ask("x") == "200"
        cluster.etcdctl("put", entry.key, text=entry.value.decode())
        pair.wait("accepted")
    assert flow.ask("x") == "200"
    flow.end()
    assert all("Traceback" not in host.log() for host in pair.world.hosts)


def test_an_option_that_ipv4_lacks(pair: Pair) -> None:
    talk.run(pair.world.container(pair.there), SET_OPTION)
    wait_until(lambda: not pair.takes_ipv6(), LONG_S, "peers to be told")
    pair.wait("overlay_only")


def _lose(pair: Pair) -> None:
    pair.there.netns.ip(f"addr del {THERE6}/64 dev eth0")


def _regain(pair: Pair) -> None:
    pair.there.netns.ip(f"addr add {THERE6}/64 dev eth0 nodad")


def _rule(pair: Pair) -> None:
    pair.there.netns.run("ip6tables-nft", "-A", "INPUT", "-s", "fd00::9", "-j", "DROP")


def _no_rule(pair: Pair) -> None:
    pair.there.netns.run("ip6tables-nft", "-F")


@pytest.mark.parametrize(("lose", "regain"), [(_lose, _regain), (_rule, _no_rule)],
                         ids=["address", "rules"])
def test_what_comes_and_goes(pair: Pair, lose: Callable[[Pair], None],
                             regain: Callable[[Pair], None]) -> None:
    """The server's address is away, or there is a rule for IPv6."""
    lose(pair)
    wait_until(lambda: not pair.takes_ipv6(), LONG_S, "peers to be told")
    regain(pair)
    wait_until(pair.takes_ipv6, LONG_S, "peers to be told again")
    pair.wait("accepted")
