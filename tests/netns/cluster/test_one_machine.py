"""Tests real drivers behind a firewall, with another host's copied state, and on another etcd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from driver.model import Cluster
from driver.store.format import keys, records
from tests.conftest import PROJECT
from tests.netns.cluster.etcd_world import LONG_S, World
from tests.support.run.wait import wait_until
from tests.support.world.served import Host

pytestmark = pytest.mark.timeout(600)


def cli(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(host.netns.command(
        sys.executable, "-m", "driver", *arguments, *host.etcd_options, "--state",
        str(host.folder / "state"), "--config", os.devnull, "--socket", host.socket), cwd=PROJECT,
        check=False, capture_output=True, text=True, timeout=60)


PINGS = "ip protocol icmp drop; udp dport 33434 drop"
SYNS = "tcp flags & (syn | ack) == syn drop"


@contextmanager
def firewall(world: World, rules: str) -> Iterator[None]:
    """A firewall for all that comes in from both hosts."""
    world.wire.run("nft", f"""
        table netdev fire {{
            chain frames {{
                type filter hook ingress devices = {{ p1, p2 }} priority 0;
                {rules}
            }}
        }}""")
    try:
        yield
    finally:
        world.wire.run("nft", "delete table netdev fire")


@pytest.mark.parametrize(("rules", "said", "state"), [
    (PINGS, "198.18.7.2) has no lease, but gives a sign of life", "no driver"),
    (f"{PINGS}; {SYNS}", "198.18.7.2) has no lease and has never answered this host",
     "no driver, never answers: not removed by itself")])
def test_a_live_host_without_driver_behind_a_firewall(
        world: World, rules: str, said: str, state: str) -> None:
    """It has never answered a ping; its containers must not suffer."""
    here, there = world.hosts
    with firewall(world, rules):
        world.restart(here)  # so that it remembers no answer
        there.end_driver(signal.SIGKILL)
        try:
            wait_until(lambda: said in here.log(), LONG_S, "its lease is over, and it was asked")
            wait_until(lambda: cli(here, "hosts").stdout.splitlines()[-1].endswith(state)
                       or cli(here, "hosts").stdout.splitlines()[-2].endswith(state), LONG_S,
                       "it is said")
            assert here.status()["hosts"] == "1 registered, 1 absent, 0 gone"
            world.assert_open_connection()
        finally:
            there.start_driver()
    for host in world.hosts:  # new connections avoid the host path until SYNs pass
        wait_until(lambda host=host: host.status()["peers"] == "1 on the host path",  # type: ignore[misc]
                   LONG_S, f"{host.netns.name} finds that SYNs pass again")
    world.wait_converged()
    assert world.cluster.entries(keys.ABSENT) == []


def test_a_copy_is_refused_while_the_original_lives(
        world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    original = world.hosts[1]
    with ExitStack() as stack:
        copy = world.add_host(stack, 3, tmp_path_factory.mktemp("copy"),
                              world.authority.issue("copy"))
        shutil.copytree(original.folder / "state", copy.folder / "state", symlinks=True)
        copy.start_driver()
        wait_until(lambda: copy.status()["registration"].startswith("refused: "), LONG_S,
                   "it is refused")
        said = copy.status()["registration"]
        assert "(198.18.7.2) is registered as host" in said
        reply = copy.dockerd.call("IpamDriver.RequestAddress", PoolID="slim-local/10.50.0.0/16",
                                  Address="", Options=None)
        assert "this host is not admitted" in reply.error
        assert copy.status()["recovery"] == "waits for etcd"
        assert original.status()["registration"] == "registered"
        world.wait_converged()
        assert not copy.end_driver(signal.SIGTERM)
    world.wait_converged()


def test_another_clusters_etcd_is_left_alone(world: World) -> None:
    """While drivers run, when they start, and until `adopt-cluster` says that they have moved."""
    other = records.encode(records.cluster_fields(Cluster("f" * 32, "elsewhere"))).decode()
    world.cluster.etcdctl("put", keys.CLUSTER, other)
    for host in world.hosts:
        world.assert_refused(host, "adopt-cluster")
        assert "f" * 12 + " (begun by elsewhere)" in host.status()["etcd"]
    world.assert_data_path()
    first = world.hosts[0]
    known = world.hosts[1].status()["host"].split()[1]
    both = "belongs to cluster ffffffffffff (begun by elsewhere), this host to cluster "
    listed = cli(first, "hosts")
    assert listed.returncode == 0
    assert known[:12] in listed.stdout
    assert both in listed.stderr
    refused = cli(first, "forget-host", known, "--alive")
    assert refused.returncode == 1
    assert both in refused.stderr
    first.end_driver(signal.SIGKILL)
    first.start_driver()
    world.assert_data_path()
    assert first.links()
    for host in world.hosts:
        done = cli(host, "adopt-cluster")
        assert "belongs to cluster ffffffffffff (begun by elsewhere) now" in done.stdout, done
    world.wait_converged()
