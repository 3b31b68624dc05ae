"""Tests hosts that leave the overlay path to the VXLAN device, and their peers that do not.

Earlier versions are such hosts, and those with --overlay=device.  Also cables that cannot cut
segments or fill checksums in, on either kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.netns.talk import UDP_CLIENT, UDP_SERVER, counted, run, started
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.machines import Cluster, Container, Machine, lent

Pair = tuple[Container, Container]
TC, DEVICE = "tc", "device"


@pytest.fixture(scope="module")
def mixed() -> Iterator[Cluster]:
    """A host that needs the device for little, and one that needs it for all."""
    netns.require_root()
    with ExitStack() as stack:
        cluster = Cluster(stack)
        cluster.add_machine()
        cluster.add_machine(direct=False)
        yield cluster


@pytest.fixture(params=[(TC, DEVICE), (DEVICE, TC)], ids=" to ".join)
def pair(request: pytest.FixtureRequest, mixed: Cluster) -> Iterator[Pair]:
    with lent(mixed) as machines:
        here, there = (machines[(TC, DEVICE).index(kind)] for kind in request.param)
        made = here.container(), there.container()
        for number, one in enumerate(made, 2):
            one.machine.connect(one, f"10.32.0.{number}/16", address6=f"fd00:32::{number}/64")
        made[0].run("ping", "-c1", "-W2", made[1].address)  # both know each other's MAC
        for machine in (here, there):
            machine.forget_ways()
        yield made


def _tc(pair: Pair) -> Machine:
    return next(one.machine for one in pair if one.machine is one.machine.cluster.machines[0])


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
@pytest.mark.parametrize("size", [0, 1400, 8000])
def test_datagrams(pair: Pair, family: str, size: int) -> None:
    here, there = pair
    address = there.address if family == "AF_INET" else "fd00:32::3"
    started(there, UDP_SERVER, family)
    with _tc(pair).counting() as grown:
        assert run(here, UDP_CLIENT, family, address, size).split()[1] == address
    assert grown["overlay_sent"] == grown["overlay_received"] > 0
    assert "by_device" not in grown


def test_one_kind_of_host_needs_the_device_for_all(pair: Pair) -> None:
    here, there = pair
    with counted(here, there) as total:
        here.run("ping", "-c2", "-i0.05", "-W2", there.address)
    assert total == {"overlay_sent": 4, "overlay_received": 4, "by_device": 4}


CUT = "tso off gso off tx-udp_tnl-segmentation off"
CABLES = {"as it is": "", "nothing cut": CUT, "no checksums": "tx off", "merging": "gro on",
          "like a network card": f"{CUT} gro on"}
_OTHER = {"on": "off", "off": "on"}


@pytest.mark.parametrize("cable", CABLES.values(), ids=CABLES.keys())
def test_a_stream(pair: Pair, cable: str) -> None:
    here, there = pair
    words = cable.split()
    with ExitStack() as stack:
        for machine in (here.machine, there.machine) if words else ():
            machine.netns.run("ethtool", "-K", "eth0", *words)
            stack.callback(machine.netns.run, "ethtool", "-K", "eth0",
                           *(_OTHER.get(word, word) for word in words))
        started(there, 'serve(listen("0.0.0.0", 80))')
        with counted(here, there) as total:
            assert run(here, """
                c = connected(sys.argv[1], 80, bind=(sys.argv[2], 0))
                data = os.urandom(1_000_000)
                threading.Thread(target=c.sendall, args=(data,)).start()
                assert exactly(c, len(data)) == data
                for size in (1, 100, 1000, 2000):
                    c.sendall(data[:size])
                    assert exactly(c, size) == data[:size]
                print("whole")
            """, there.address, here.address) == "whole"
        here.run("ping", "-c1", "-W2", "-s", "1400", there.address)
    assert total["by_device"] > 0
    assert not {"tunnel_failed", "overlay_wrong_host", "overlay_no_endpoint"} & set(total)


def test_a_broadcast(pair: Pair) -> None:
    here, there = pair
    heard = started(there, """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 5000))
        s.settimeout(5)
        ready()
        print(s.recv(99).decode())
    """)
    run(here, """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(b"all", ("10.32.255.255", 5000))
    """)
    assert heard.rest() == "all"


def test_only_the_device_meets_the_hosts_packet_filter(pair: Pair) -> None:
    """docs/wire.md says so: rules for the port belong on the network between the hosts."""
    here, there = pair
    for machine in (here.machine, there.machine):
        machine.netns.run("nft", "add table ip theirs; add chain ip theirs out { type filter hook "
                          "output priority 0; }; add rule ip theirs out udp dport 14789 counter")
    try:
        here.run("ping", "-c2", "-i0.05", "-W2", there.address)
        wait_until(lambda: _seen(pair) == {TC: 0, DEVICE: 2}, 5, "the counters")
    finally:
        for machine in (here.machine, there.machine):
            machine.netns.run("nft", "delete table ip theirs")


def _seen(pair: Pair) -> dict[str, int]:
    """Return how many packets each kind of host has sent by its packet filter."""
    found = {}
    for one in pair:
        shown = one.machine.netns.run("nft", "list table ip theirs").stdout
        kind = TC if one.machine is _tc(pair) else DEVICE
        found[kind] = int(shown.split("counter packets ")[1].split()[0])
    return found
