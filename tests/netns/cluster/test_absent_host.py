"""Tests real drivers and a host without a lease: cut off from etcd, from all, or forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from driver.model import HostId
from driver.store.format import keys
from tests.conftest import PROJECT
from tests.netns import talk
from tests.netns.cluster.etcd_world import LONG_S, World
from tests.support.run.wait import wait_until
from tests.support.world.served import NET, Host, create_network


def id_of(host: Host) -> HostId:
    return HostId((host.folder / "state" / "host-id").read_text().strip())


def echoes(host: Host) -> int:
    """Count the ICMP echo requests that have arrived."""
    rows = [line.split() for line in host.netns.run("cat", "/proc/net/snmp").stdout.splitlines()
            if line.startswith("Icmp:")]
    return int(dict(zip(*rows, strict=True))["InEchos"])


@contextmanager
def unplugged(world: World) -> Iterator[None]:
    """Cut the second host off from all; its containers run on."""
    host = world.hosts[1]
    with world.cut_off(2):
        host.netns.ip("link set eth0 down")
        try:
            wait_until(lambda: world.hosts[0].status()["hosts"] == "1 registered, 0 absent, 1 gone",
                       LONG_S, "the other host to find out")
            yield
        finally:
            host.netns.ip("link set eth0 up")


def test_cut_off_from_etcd_alone(world: World) -> None:
    """A host that answers is alive, however often it is asked."""
    here, there = world.hosts
    world.assert_data_path()
    with world.cut_off(2):
        wait_until(lambda: here.status()["hosts"] == "1 registered, 1 absent, 0 gone", LONG_S,
                   "its lease is over")
        before = echoes(there)
        wait_until(lambda: echoes(there) >= before + 6, LONG_S, "it is asked for signs of life")
        assert here.status()["hosts"] == "1 registered, 1 absent, 0 gone"
        world.assert_data_path()
        assert here.counters()["host_dead"] == 0
    world.wait_converged()
    assert world.cluster.entries(keys.ABSENT) == []


def test_unplugged_and_plugged_in_again(world: World) -> None:
    here = world.hosts[0]
    with unplugged(world):
        before = here.counters()["host_dead"]
        assert talk.run(world.container(world.boxes[0]), """
            print(error_of(lambda: connected(sys.argv[1], 80, timeout_s=20)))
        """, world.boxes[1].ip) == "EHOSTUNREACH"
        assert here.counters()["host_dead"] == before + 1
    wait_until(lambda: here.status()["hosts"] == "2 registered, 0 absent, 0 gone", LONG_S,
               "it is back")
    world.wait_converged()  # the open connection goes on, too


def python(host: Host, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(host.netns.command(sys.executable, *arguments), cwd=PROJECT, check=False,
                          capture_output=True, text=True, timeout=60)
    assert not check or not done.returncode, done.stderr
    return done


# Does what a driver does when a host was away for too long; it runs where it can reach etcd.
LAPSE = """
import sys
from driver import settings
from driver.__main__ import make_parser
from driver.commands.hosts import open_etcd
from driver.compose.parts.removal import remove_records
from driver.model import HostId, Removal
from driver.store.format import keys
from driver.store.hosts.absences import EtcdAbsences
options = vars(make_parser().parse_args(["hosts", *sys.argv[2:]]))
options.pop("command")
with open_etcd(settings.load(options, {})) as kv:
    absences, gone = EtcdAbsences(kv), HostId(sys.argv[1])
    absence = absences.begin(gone, absences.get(gone), Removal.ADDRESSES)
    remove_records(kv, absence)
    assert absences.finish(absence)
    assert kv.count(keys.local_endpoints(gone)) == 0
"""


def test_its_addresses_were_free_and_still_are(world: World) -> None:
    """It was away for too long, but nobody took its addresses."""
    with unplugged(world):
        python(world.hosts[0], "-c", LAPSE, id_of(world.hosts[1]), *world.hosts[0].etcd_options,
               check=True)
    world.wait_converged()
    assert "is on record again" in world.hosts[1].log()


def cli(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(host, "-m", "driver", *arguments, *host.etcd_options, "--state",
                  str(host.folder / "state"), "--config", os.devnull)


def test_a_live_host_is_forgotten_when_it_must_be(world: World) -> None:
    here, there = world.hosts
    gone = id_of(there)
    listed = cli(here, "hosts").stdout.splitlines()
    assert [line.split()[-1] for line in listed[1:]] == ["alive", "alive"], listed
    for host, name, error in ((here, gone, "is alive"), (there, gone[:12], "is alive"),
                              (here, gone[:11], "no host is called"),
                              (here, listed[1].split()[1], "several hosts")):
        refused = cli(host, "forget-host", name)
        assert error in refused.stderr, refused
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
    own = cli(there, "forget-host", gone, "--alive")
    assert "this is the host you are on" in own.stderr, own
    done = cli(here, "forget-host", gone, "--alive")
    assert done.returncode == 0, done

    wait_until(lambda: there.links() == [], LONG_S, "its containers lose their interfaces")
    wait_until(lambda: there.status()["ports"].startswith("0 "), LONG_S, "ports are free")
    wait_until(lambda: there.status()["directory"] == "0 endpoints", LONG_S,
               "it follows the network no more")
    wait_until(lambda: here.status()["directory"] == "1 endpoints", LONG_S,
               "its peer does not know its endpoint any more")
    reply = there.dockerd.call("NetworkDriver.CreateEndpoint", NetworkID=NET,
                               EndpointID="e" * 64, Options={}, Interface={
                                   "Address": "10.50.0.9/16", "AddressIPv6": "", "MacAddress": ""})
    assert "does not exist on this host" in reply.error
    for method in ("Leave", "DeleteEndpoint"):
        there.dockerd.ok(f"NetworkDriver.{method}", NetworkID=NET,
                         EndpointID=world.boxes[1].endpoint)
    there.dockerd.ok("NetworkDriver.DeleteNetwork", NetworkID=NET)
    assert "Traceback" not in there.log()

    create_network(there)
    world.boxes[1] = world.attach(there)
    server = world.program(world.boxes[1], 'serve(listen("0.0.0.0", 80))')
    assert server.line() == "ready"
    wait_until(world.converged, LONG_S, "both hosts know both endpoints")
    world.assert_new_connections()
