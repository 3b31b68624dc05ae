"""Tests etcd losing its data, getting older data, or being another one, with real dockerds.

Running containers, under load, notice nothing.  Afterwards Docker's commands work, and nothing is
left in etcd.  tests/netns/spoilt/test_data.py spoils every record in every way, without dockerd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from driver.store.format import keys, records
from tests.lab.conftest import BUSYBOX, SERVE
from tests.lab.docker.test_docker import address_of, call, check_views, create_network, start
from tests.lab.restarts.test_dockerd import directory, running, wait_running
from tests.lab.restarts.test_driver import Load, lost
from tests.lab.rig.hosts import LAB_SH, CommandFailed, Host, Lab, run
from tests.lab.rig.snapshot import remove_everything
from tests.lab.rig.traffic import segments_lost
from tests.support.run.wait import wait_until
from tests.support.world.etcd import EtcdCluster, live
from tests.support.world.netns import Netns

SETTLED_S = 90
COLLECT = ("--collect-after", "3")
SUBNET, GATEWAY = "10.32.0.0/16", "10.32.0.1"
PROBLEM = re.compile(r"level=(warning|error) .*etcd")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def etcd(lab: Lab, hosts: list[Host], tmp_path: Path) -> Iterator[EtcdCluster]:
    """The etcd that the drivers use during a test, in place of the lab's own."""
    for host in hosts:
        host.stop_driver()
    with one_member(lab, tmp_path / "first") as made:
        start_drivers(hosts, made)
        yield made
        for host in hosts:
            with suppress(CommandFailed):  # then the test has failed, and its error says more
                remove_everything(host)
        wait_until(lambda: not left(made), SETTLED_S, "nothing is left in etcd")
        for host in hosts:
            host.stop_driver()


def one_member(lab: Lab, folder: Path) -> EtcdCluster:
    folder.mkdir()
    return EtcdCluster(folder, address=str(lab.gateway), netns=Netns(f"{lab.name}-fab"), count=1)


def start_drivers(hosts: list[Host], etcd: EtcdCluster) -> None:
    for host in hosts:
        host.start_driver("--etcd", ",".join(etcd.urls), *COLLECT)


def left(etcd: EtcdCluster) -> list[str]:
    """Return the keys that should be gone; tombstones end by themselves."""
    return [entry.key for prefix in (keys.NETWORKS, keys.VNIS, keys.ENDPOINTS, keys.SUBNETS,
                                     keys.ADDRESSES, keys.OWNERS)
            for entry in live(etcd.entries(prefix))]


@dataclass
class Loads:
    """Two loads: across the hosts, and within the first one."""

    hosts: list[Host]
    across: Load
    here: Load

    def go_on(self) -> None:
        self.across.goes_on()
        self.here.goes_on()

    def lost(self) -> int:
        first, second = self.hosts
        return (lost(first, second) + segments_lost(first, "here")
                + segments_lost(first, "near"))


@pytest.fixture
def loads(etcd: EtcdCluster, hosts: list[Host]) -> Iterator[Loads]:
    """Both loads; checks that they lose neither a connection nor a segment."""
    first, second = hosts
    create_network(hosts)
    far, near = start(second, "server", *SERVE), start(first, "near", *SERVE)
    made = Loads(hosts, Load(first, far), Load(first, near, "here"))
    made.go_on()
    before = made.lost()
    yield made
    made.go_on()
    assert made.lost() == before
    for load in (made.across, made.here):
        assert load.end()["failures"] == []


def said(hosts: list[Host]) -> list[int]:
    """Return the position of each host's log."""
    return [host.driver_log.stat().st_size for host in hosts]


def assert_said(hosts: list[Host], since: list[int]) -> None:
    """Assert that each host's log names etcd in a warning since then."""
    for host, begin in zip(hosts, since, strict=True):
        wait_until(lambda host=host, begin=begin: PROBLEM.search(  # type: ignore[misc]
            host.driver_log.read_text(errors="replace")[begin:]), SETTLED_S, f"{host.name} says it")


def addresses_of(host: Host) -> list[str]:
    return [address_of(host, name)
            for name in host.docker("ps", "--format", "{{.Names}}").split()]


def assert_one_truth(etcd: EtcdCluster, hosts: list[Host]) -> None:
    """Assert that containers, etcd and both hosts' maps have the same addresses, each once."""
    given = [address for host in hosts for address in addresses_of(host)]
    assert len(set(given)) == len(given), given

    def same() -> bool:
        stored = {str(keys.address_of(entry.key))
                  for entry in etcd.entries(keys.addresses(SUBNET))}
        shared = [json.loads(entry.value) for entry in etcd.entries(keys.ENDPOINTS)]
        known = [each["address"].partition("/")[0] for each in shared if not each.get("left")]
        return stored == {GATEWAY, *given} and sorted(known) == sorted(given)

    wait_until(same, SETTLED_S, "etcd has what Docker has")
    for host in hosts:
        wait_until(lambda host=host: directory(host) == set(given),  # type: ignore[misc]
                   SETTLED_S, f"{host.name} knows all endpoints")


def assert_docker_works(etcd: EtcdCluster, hosts: list[Host]) -> None:
    """Start and remove containers, on the network from before and on a new one."""
    for number, host in enumerate(hosts):
        start(host, f"new{number}", *SERVE)
    first, second = hosts
    check_views(call(first, "new0", address_of(second, "new1")),
                client=address_of(first, "new0"), server=address_of(second, "new1"))
    assert_one_truth(etcd, hosts)
    create_network(hosts, "another", "10.33.0.0/16")
    for number, host in enumerate(hosts):
        start(host, f"other{number}", image=BUSYBOX, network="another")
        host.docker("rm", "-f", f"new{number}", f"other{number}")
        host.docker("network", "rm", "another")
    assert_one_truth(etcd, hosts)


def wipe(etcd: EtcdCluster) -> None:
    etcd.etcdctl("del", "--prefix", "/slim/")


def test_it_loses_its_data_while_drivers_run(etcd: EtcdCluster, loads: Loads, hosts: list[Host]
                                             ) -> None:
    since = said(hosts)
    wipe(etcd)
    loads.go_on()
    assert_said(hosts, since)
    assert_docker_works(etcd, hosts)


def test_it_loses_its_data_before_drivers_start(etcd: EtcdCluster, loads: Loads, hosts: list[Host]
                                                ) -> None:
    for host in hosts:
        host.kill_driver()
    wipe(etcd)
    since = said(hosts)
    start_drivers(hosts[1:], etcd)
    loads.go_on()
    start_drivers(hosts[:1], etcd)
    loads.go_on()
    assert_said(hosts, since)
    assert_docker_works(etcd, hosts)


def test_a_host_is_pointed_at_an_empty_one(etcd: EtcdCluster, loads: Loads, lab: Lab,
                                           hosts: list[Host], tmp_path: Path) -> None:
    """A wrong setting does that; then it is corrected."""
    first = hosts[0]
    with one_member(lab, tmp_path / "empty") as empty:
        first.stop_driver()
        since = said(hosts[:1])
        start_drivers(hosts[:1], empty)
        loads.go_on()
        assert_said(hosts[:1], since)
        first.stop_driver()
    start_drivers(hosts[:1], etcd)
    loads.go_on()
    assert_docker_works(etcd, hosts)


def test_a_host_is_pointed_at_another_cluster(etcd: EtcdCluster, loads: Loads, lab: Lab,
                                              hosts: list[Host], tmp_path: Path) -> None:
    """The driver refuses, names both clusters' ids, and changes neither cluster."""
    first = hosts[0]
    other_id = "f0" * 16
    with one_member(lab, tmp_path / "other") as other:
        other.etcdctl("put", "/slim/v1/cluster", records.encode(
            {"id": other_id, "name": "elsewhere"}).decode())
        first.stop_driver()
        since = said(hosts[:1])[0]

        def refuses() -> bool:
            text = first.driver_log.read_text(errors="replace")[since:]
            return other_id[:12] in text and own_id[:12] in text

        own_id = json.loads(etcd.entries("/slim/v1/cluster")[0].value)["id"]
        with suppress(AssertionError):  # a driver that never answers is right, too
            start_drivers(hosts[:1], other)
        wait_until(refuses, SETTLED_S, "both ids are said")
        loads.go_on()
        assert [entry.key for entry in other.entries(keys.ROOT)] == ["/slim/v1/cluster"]
        if first.driver is not None and first.driver.running:
            first.stop_driver()
        first.driver = None
    start_drivers(hosts[:1], etcd)
    loads.go_on()
    assert_docker_works(etcd, hosts)


def test_a_snapshot_of_an_hour_ago_is_restored(etcd: EtcdCluster, loads: Loads, hosts: list[Host],
                                               tmp_path: Path) -> None:
    """It lacks what was made since, and has what was removed since."""
    first, second = hosts
    start(second, "gone", image=BUSYBOX)
    etcd.save(tmp_path / "snapshot")
    second.docker("rm", "-f", "gone")
    create_network(hosts, "late", "10.34.0.0/16")
    late = start(second, "late", *SERVE, network="late")
    start(first, "late-client", network="late")
    call(first, "late-client", late)
    since = said(hosts)
    etcd.restore(tmp_path / "snapshot")
    loads.go_on()
    call(first, "late-client", late)
    assert_said(hosts, since)
    for host, name in ((first, "late-client"), (second, "late")):
        host.docker("rm", "-f", name)
    for host in hosts:
        host.docker("network", "rm", "late")
    wait_until(lambda: not etcd.entries(keys.addresses("10.34.0.0/16")), SETTLED_S,
               "its addresses are free")
    assert_docker_works(etcd, hosts)


def test_a_newer_driver_has_written_what_this_one_cannot_read(
        etcd: EtcdCluster, loads: Loads, hosts: list[Host]) -> None:
    """After a downgrade, running containers keep their ports and addresses."""
    second = hosts[1]
    own = [entry for entry in (*etcd.entries(keys.ENDPOINTS), *etcd.entries(keys.LOCAL))
           if b'"address":"' + address_of(second, "server").encode() in entry.value]
    assert len(own) == 2, own
    second.kill_driver()
    for entry in own:
        etcd.etcdctl("put", entry.key, json.dumps({"schema": 2, "write": "0" * 16}))
    since = said([second])
    start_drivers([second], etcd)
    loads.go_on()
    assert_said([second], since)
    for number in range(3):
        start(second, f"more{number}", *SERVE)
    address = address_of(second, "server")
    assert address not in [address_of(second, f"more{number}") for number in range(3)]
    loads.go_on()  # each answer names the called address
    second.docker("rm", "-f", *(f"more{number}" for number in range(3)))
    for entry in own:
        etcd.etcdctl("put", entry.key, entry.value.decode())
    loads.go_on()
    assert_docker_works(etcd, hosts)


def restarting(host: Host, name: str) -> str:
    return start(host, name, *SERVE, options=["--restart", "always"])


@pytest.mark.parametrize("data", ["kept", "lost"])
def test_all_hosts_crash_at_once(data: str, etcd: EtcdCluster, lab: Lab, hosts: list[Host]) -> None:
    """The hosts lose kernel state and keep their disks; etcd keeps or loses its data."""
    create_network(hosts)
    for host in hosts:
        restarting(host, f"always-{host.name}")
        start(host, f"once-{host.name}", *SERVE)
    for host in hosts:
        run([str(LAB_SH), "crash", host.name], env=lab.env)
        assert host.driver is not None
        host.driver.join()
        host.driver = None
    if data == "lost":
        wipe(etcd)
    lab.up(2)
    start_drivers(hosts, etcd)
    for host in hosts:
        if not running(host, f"always-{host.name}"):
            host.docker("start", f"always-{host.name}")
        host.docker("start", f"once-{host.name}")
    addresses = {name: wait_running(host, name) for host in hosts
                 for name in (f"always-{host.name}", f"once-{host.name}")}
    assert len(set(addresses.values())) == 4, addresses
    first, second = hosts
    check_views(call(first, "always-h1", addresses["once-h2"]),
                client=addresses["always-h1"], server=addresses["once-h2"])
    check_views(call(second, "always-h2", addresses["once-h1"]),
                client=addresses["always-h2"], server=addresses["once-h1"])
    assert_docker_works(etcd, hosts)


