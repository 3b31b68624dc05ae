"""Tests a narrow link in the middle of the path: "fragmentation needed" must reach containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.talk import host_path, run, started
from tests.support.world import netns
from tests.support.world.machines import Cluster, Machine

NARROW = 1300
ROUTER = "198.18.77.100"


@pytest.fixture
def narrow_path(cluster: Cluster, machines: list[Machine]) -> Iterator[None]:
    """Packets from the first machine to the second pass a router with an MTU of 1300."""
    first, second = machines
    with netns.made("router") as router:
        netns.join(cluster.wire, "pr", router, "eth0")
        cluster.wire.ip("link set pr master br0")
        router.ip(f"addr add {ROUTER}/24 dev eth0")
        router.ip(f"route add {second.underlay}/32 dev eth0 mtu lock {NARROW}")
        router.sysctl("ipv4.ip_forward", 1)
        for interface in ("all", "eth0"):
            router.sysctl(f"ipv4.conf.{interface}.send_redirects", 0)
            router.sysctl(f"ipv4.conf.{interface}.rp_filter", 0)
        first.netns.ip(f"route add {second.underlay}/32 via {ROUTER}")
        first.forget_ways()
        try:
            yield
        finally:
            first.netns.ip(f"route del {second.underlay}/32 via {ROUTER}")
            first.forget_ways()
            first.netns.ip("neigh flush dev eth0")  # the next router has another MAC


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.usefixtures("narrow_path")
def test_the_path_mtu_is_found(machines: list[Machine], sender: str) -> None:
    """The first machine sends a megabyte to the second, as client or as server."""
    wide = machines[0].container("10.32.0.2/16")
    beyond = machines[1].container("10.32.0.3/16")
    code = """
        IP_MTU = 14
        def send(c):
            c.sendall(bytes(1_000_000))
            assert exactly(c, 4) == b"done"
            print(c.getsockopt(socket.IPPROTO_IP, IP_MTU), flush=True)
            c.close()
        def receive(c):
            assert len(exactly(c, 1_000_000)) == 1_000_000
            c.sendall(b"done")
            c.recv(1)
    """
    # A rule of careful containers; the ICMP error about the size must not count as INVALID.
    wide.netns.run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID",
                   "-j", "DROP")
    here, there = (wide, beyond) if sender == "client" else (beyond, wide)
    here_does, there_does = ("send", "receive")[::1 if sender == "client" else -1]
    serving = started(there, code + f"""
        serve(listen("0.0.0.0", 80), {there_does})
    """)
    with host_path(here, there):
        said = run(here, code + f"""
        {here_does}(connected(sys.argv[1], 80))
        """, there.address)
        if sender == "server":
            serving.line()
            said = serving.line()
    assert said == str(NARROW)
