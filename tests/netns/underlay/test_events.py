"""Tests that real drivers notice changes of their underlay: address, device or MTU."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from driver.commands.control_client import NotRunningError
from driver.store.format import keys, records
from tests.netns import talk
from tests.netns.cluster.etcd_world import LONG_S, Box, World, directory
from tests.support.run.wait import wait_until
from tests.support.world.etcd import live
from tests.support.world.served import Host


def on_record(world: World, box: Box) -> str:
    """Return the underlay address of a container's endpoint, as its peers know it."""
    found = [records.decode(entry, records.endpoint)
             for entry in live(world.cluster.entries(keys.ENDPOINTS))]
    return str(next(endpoint.underlay for endpoint in found if endpoint.id == box.endpoint))


def status(host: Host) -> dict[str, str]:
    """Return the status; {} while one process replaces another."""
    assert host.driver is not None
    assert host.driver.poll() is None, host.log()
    with suppress(NotRunningError):
        return host.status()
    return {}


def wait_moved(world: World, number: int, address: str, before: str) -> None:
    """Wait until all hosts know the new address, and everything works from there."""
    host, box = world.hosts[number], world.boxes[number]

    wait_until(lambda: status(host).get("underlay", before) != before
               and status(host).get("recovery") == "done", LONG_S,
               "the driver to have another underlay")
    assert host.status()["underlay"].startswith(address)
    wait_until(lambda: on_record(world, box) == address, LONG_S, "the record to follow")
    wait_until(world.converged, LONG_S, "all maps to follow")
    assert {entry[2] for entry in directory(world.hosts[0])} >= {IPv4Address(address)}
    wait_until(lambda: f"from {address} " in box.netns.ip("rule show"), LONG_S,
               "the sandbox's rules to follow")
    if address not in before:
        old = before.split(maxsplit=1)[0]
        wait_until(lambda: f"from {old} " not in box.netns.ip("rule show"), LONG_S,
                   "the old rules to go")
        assert f"local {old} " not in box.netns.ip("route show table local")
    assert "Traceback" not in host.log()


@pytest.mark.parametrize("what", ["address", "link"])
def test_it_goes_and_returns(world: World, what: str) -> None:
    """Open connections survive, as the host's own do."""
    host = world.hosts[0]
    log = host.folder / "driver.log"
    before, told = host.status()["underlay"], log.read_text().count(" is back")
    if what == "address":
        host.netns.ip("addr del 198.18.7.1/24 dev eth0")
        wait_until(lambda: "198.18.7.1 (eth0) has gone" in log.read_text(), LONG_S, "the news")
        host.netns.ip("addr add 198.18.7.1/24 dev eth0")
        wait_until(lambda: log.read_text().count(" is back") > told, LONG_S, "the other news")
    else:
        host.netns.ip("link set eth0 down")
        host.netns.ip("link set eth0 up")
    world.assert_data_path()
    assert host.status()["underlay"] == before
    assert "starting anew" not in log.read_text()


def test_the_address_changes(world: World) -> None:
    host = world.hosts[0]
    world.assert_data_path()
    assert host.driver is not None
    pid, before = host.driver.pid, host.status()["underlay"]
    host.netns.ip("addr del 198.18.7.1/24 dev eth0")
    host.netns.ip("addr add 198.18.7.11/24 dev eth0")
    wait_moved(world, 0, "198.18.7.11", before)
    assert host.driver.poll() is None
    assert host.driver.pid == pid
    world.assert_new_connections()
    again = world.attach(host)  # new containers work, too
    world.detach(again)


def test_another_device_gets_the_address(world: World) -> None:
    """This happens when an interface joins a bridge or bond."""
    host = world.hosts[1]
    host.netns.ip("link set eth0 name port0")
    host.netns.ip("addr flush dev port0")
    host.netns.ip("link add eth0 type bridge")
    host.netns.ip("link set port0 master eth0")
    host.netns.ip("link set port0 up")  # not all kernels can rename a device that is up
    host.netns.ip("addr add 198.18.7.2/24 dev eth0")
    host.netns.ip("link set eth0 up")
    index = host.netns.ifindex("eth0")
    wait_until(lambda: "198.18.7.2 on eth0" in status(host).get("underlay", "")
               and host.netns.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout, LONG_S,
               f"the programs on device {index}")
    wait_until(lambda: world_works(world), LONG_S, "connections from and to it")
    assert "slim_from_wire" not in host.netns.run(
        "tc", "filter", "show", "dev", "port0", "ingress").stdout


def world_works(world: World) -> bool:
    try:
        world.assert_new_connections()
    except AssertionError:
        return False
    return True


def test_a_second_address_changes_nothing(world: World) -> None:
    host = world.hosts[1]
    before, log = host.status()["underlay"], len(host.log())
    assert log
    host.netns.ip("addr add 198.18.7.99/24 dev eth0")
    host.netns.ip("addr del 198.18.7.99/24 dev eth0")
    world.assert_new_connections()
    assert host.status()["underlay"] == before


def mtus(host: Host, box: Box) -> tuple[str, str, str]:
    """Return the MTUs of the tunnel, and of the container's overlay and host path routes."""
    def of(text: str) -> str:
        words = text.split()
        return words[words.index("mtu") + 1] if "mtu" in words else ""

    return (of(host.netns.ip("link show slim-vxlan")), of(box.netns.ip("route show 10.50.0.0/16")),
            of(box.netns.ip("route show table all default dev eth0")))


def test_the_underlay_takes_less(world: World) -> None:
    """The MTU shrinks at both ends, so no router could send "fragmentation needed"."""
    ends = [*zip(world.hosts, world.boxes, strict=True)]
    box, there = world.boxes[0], world.boxes[1]

    def wait_for(vxlan: str, overlay: str, host_path: str) -> None:
        wait_until(lambda: {mtus(*end) for end in ends} == {(vxlan, overlay, host_path)}, LONG_S,
                   "the MTUs to follow")

    wait_for("1450", "1450", "")
    flow = world.program(box, """
        IP_MTU = 14
        c = connected(sys.argv[1], 80, timeout_s=30)
        ready()
        for line in sys.stdin:
            assert len(asked(c, bytes(200_000))) == 200_000
            print(c.getsockopt(socket.IPPROTO_IP, IP_MTU), flush=True)
    """, there.ip)
    assert flow.line() == "ready"
    flow.say("x")
    assert flow.line() == "1500"
    for host, _ in ends:
        host.netns.ip("link set eth0 mtu 1400")
    try:
        wait_for("1350", "1350", "1400")
        flow.say("x")
        assert flow.line() == "1400"
        world.assert_new_connections()
        container = talk.run(world.container(box), """
            c = connected(sys.argv[1], 80, timeout_s=30)
            assert len(asked(c, bytes(200_000))) == 200_000
            print(c.getsockopt(socket.IPPROTO_IP, 14))
        """, there.ip)
        assert container == "1400"
    finally:
        for host, _ in ends:
            host.netns.ip("link set eth0 mtu 1500")
    wait_for("1450", "1450", "")
    flow.end()
