"""Kills and cuts off the members of a real etcd of three under load, with real dockerds.

tests/netns/cluster/test_etcd_faults.py has the other ways in which etcd can fail, without dockerd.
Members are away for as long as a lease lasts; ETCD_AWAY_S=300 makes that five minutes.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from driver.store.format import keys
from driver.store.hosts.registry import TTL_S
from tests.lab.conftest import BUSYBOX, SERVE
from tests.lab.docker.test_docker import address_of, create_network, start
from tests.lab.restarts.test_driver import Load, lost, not_host_path
from tests.lab.rig.hosts import CommandFailed, Host, Lab
from tests.lab.rig.snapshot import remove_everything
from tests.support.run.wait import wait_until
from tests.support.world.etcd import EtcdCluster, live
from tests.support.world.netns import Netns

AWAY_S = float(os.environ.get("ETCD_AWAY_S", TTL_S + 1))
BACK_S = 60  # for an election, and for what could not be finished meanwhile

pytestmark = pytest.mark.timeout(int(180 + 3 * AWAY_S))


@pytest.fixture
def cluster(lab: Lab, hosts: list[Host], tmp_path: Path) -> Iterator[EtcdCluster]:
    """The etcd that the drivers use during a test, in place of the lab's own."""
    for host in hosts:
        host.stop_driver()
    with EtcdCluster(tmp_path, address=str(lab.gateway), netns=Netns(f"{lab.name}-fab")) as made:
        for host in hosts:
            host.start_driver("--etcd", ",".join(made.urls), "--collect-after", "3")
        yield made
        made.stop()  # a test that failed may have left some of them dead
        made.start()
        for host in hosts:
            remove_everything(host)
        wait_until(lambda: not left(made), BACK_S, "nothing is left in etcd")
        for host in hosts:
            host.stop_driver()


def left(cluster: EtcdCluster) -> list[str]:
    return [entry.key for prefix in (keys.NETWORKS, keys.VNIS, keys.ENDPOINTS, keys.SUBNETS,
                                     keys.ADDRESSES, keys.OWNERS)
            for entry in live(cluster.entries(prefix))]


@pytest.fixture
def load(cluster: EtcdCluster, h1: Host, h2: Host) -> Iterator[Load]:
    """A load between the hosts, which must not notice anything."""
    create_network([h1, h2])
    made = Load(h1, start(h2, "server", *SERVE))
    made.goes_on()
    before = {host: not_host_path(host) for host in (h1, h2)}, lost(h1, h2)
    yield made
    made.goes_on()
    assert ({host: not_host_path(host) for host in (h1, h2)}, lost(h1, h2)) == before
    assert made.end()["failures"] == []


def failure(act: Callable[[], object]) -> str:
    """Return what a command says if it fails, else ""."""
    try:
        act()
    except CommandFailed as error:
        return str(error)
    return ""


def refused(host: Host, name: str) -> str:
    """Return what `docker run` says if it fails, else ""; the container exists either way."""
    return failure(lambda: start(host, name, image=BUSYBOX))


def wait_running(host: Host, name: str) -> None:
    """Repeat a start that failed for lack of etcd until it succeeds."""
    def starts() -> bool:
        said = failure(lambda: host.docker("start", name))
        assert not said or "etcd" in said, said
        return not said

    wait_until(starts, BACK_S, f"{name} starts")


def assert_one_truth(cluster: EtcdCluster, hosts: list[Host]) -> None:
    """Assert that containers, etcd and both hosts' maps have the same addresses, each once."""
    given = [address_of(host, name) for host in hosts
             for name in host.docker("ps", "--format", "{{.Names}}").split()]
    assert "" not in given
    assert len(set(given)) == len(given), given
    gateway = "10.32.0.1"

    def same() -> bool:
        stored = {str(keys.address_of(entry.key))
                  for entry in cluster.entries(keys.addresses("10.32.0.0/16"))}
        return stored - {gateway} == set(given) and len(
            live(cluster.entries(keys.ENDPOINTS))) == len(given)

    wait_until(same, BACK_S, "etcd has what Docker has")
    for host in hosts:
        wait_until(lambda host=host: status(host)["directory"] == f"{len(given)} endpoints",  # type: ignore[misc]
                   BACK_S, f"{host.name} knows all endpoints")


def status(host: Host) -> dict[str, str]:
    return dict(json.loads(host.call("/Slim.Status")[1])["Status"])


STARTS = 3  # of each host, which must work


def start_and_remove(host: Host, stop: Callable[[], bool]) -> list[str]:
    """Run containers and remove them, one after the other; return what each start said.

    It goes on after `stop` until three have started, however slow the machine is.
    """
    said: list[str] = []
    number = 0
    while not stop() or said.count("") < STARTS:
        number += 1
        said.append(refused(host, f"c{number}"))
        if number > 3:
            host.docker("rm", "-f", f"c{number - 3}")
    return said


def test_each_leader_is_killed_while_containers_come_and_go(
        cluster: EtcdCluster, load: Load, hosts: list[Host]) -> None:
    done = False
    with ThreadPoolExecutor() as pool:
        working = [pool.submit(start_and_remove, host, lambda: done) for host in hosts]
        for _ in range(3):
            leader = cluster.leader()
            leader.stop()
            cluster_leads(cluster)
            load.goes_on()
            cluster.restart(leader)
        done = True
        said = [text for work in working for text in work.result()]
    print(f"{len(said)} starts, of which failed: {sum(map(bool, said))}")
    for text in filter(None, said):  # failed during an election, with a clear text
        assert re.search("etcd|try again", text), text
    for host in hosts:
        for name in host.docker("ps", "-a", "--filter", "status=created", "--format",
                                "{{.Names}}").split():
            wait_running(host, name)
    assert_one_truth(cluster, hosts)


def cluster_leads(cluster: EtcdCluster) -> None:
    """Wait until etcd answers: two members are enough."""
    wait_until(lambda: cluster.etcdctl("get", "x", check=False).returncode == 0, 30, "a leader")


def stays_away() -> None:
    """Wait until everything that expires without etcd has expired."""
    end_s = time.monotonic() + AWAY_S
    wait_until(lambda: time.monotonic() > end_s, AWAY_S + 5, "they were away for long enough")


def test_all_members_are_gone_for_long(
        cluster: EtcdCluster, load: Load, hosts: list[Host], h1: Host, h2: Host) -> None:
    start(h1, "doomed", image=BUSYBOX)
    cluster.stop()
    assert "etcd is not available" in refused(h1, "late")
    h1.docker("rm", "-f", "doomed")
    load.goes_on()
    stays_away()
    load.goes_on()
    assert "etcd is not available" in refused(h2, "later")
    cluster.start()
    for host, name in ((h1, "late"), (h2, "later")):
        wait_running(host, name)
    assert_one_truth(cluster, hosts)


@contextmanager
def cut_off(host: Host, lab: Lab) -> Iterator[None]:
    """Cut the host off from etcd, but not from its peers."""
    rules = [("OUTPUT", "-d"), ("INPUT", "-s")]
    for chain, way in rules:
        host.exec("iptables", "-I", chain, way, str(lab.gateway), "-j", "DROP")
    try:
        yield
    finally:
        for chain, way in rules:
            host.exec("iptables", "-D", chain, way, str(lab.gateway), "-j", "DROP")


def test_a_host_is_cut_off_from_etcd_but_not_from_its_peers(
        cluster: EtcdCluster, load: Load, lab: Lab, h1: Host, h2: Host) -> None:
    start(h2, "doomed", image=BUSYBOX)
    with cut_off(h2, lab):
        assert "etcd is not available" in refused(h2, "late")
        h2.docker("rm", "-f", "doomed")
        start(h1, "elsewhere", image=BUSYBOX)
        wait_until(lambda: len(cluster.entries(keys.HOSTS)) == 1, BACK_S, "its lease is over")
        load.goes_on()
        start(h1, "elsewhere-2", image=BUSYBOX)
    wait_running(h2, "late")
    wait_until(lambda: len(cluster.entries(keys.HOSTS)) == 2, BACK_S, "it is registered")
    assert_one_truth(cluster, [h1, h2])
