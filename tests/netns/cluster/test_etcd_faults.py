"""Tests two hosts whose etcd fails in every way that it can: the damage must not last.

In each case connections go on, new ones take the host path, calls fail in time and say what to do,
and afterwards everything converges by itself.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from driver.store.format import keys
from driver.store.hosts.registry import TTL_S
from tests.netns.cluster.etcd_world import LONG_S, QUOTA_BYTES, World
from tests.support.run.wait import wait_until
from tests.support.world.certificates import install
from tests.support.world.etcd import Etcd
from tests.support.world.served import POOL

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def world(running: World) -> World:
    running.wait_converged()
    return running


@pytest.mark.parametrize("which", ["a member", "the leader"])
def test_killed(world: World, which: str) -> None:
    leader = world.cluster.leader()
    victim = leader if which == "the leader" else next(
        member for member in world.cluster.members if member is not leader)
    victim.stop()
    world.assert_data_path()
    for host in world.hosts:
        wait_until(lambda h=host: works(world, h), LONG_S, "calls work")  # type: ignore[misc]
    box = world.attach(world.hosts[0])
    wait_until(world.converged, LONG_S, "the other host learns of a new endpoint")
    world.detach(box)
    world.cluster.restart(victim)
    world.wait_converged()


def works(world: World, host: object) -> bool:
    """Whether a call works; during an election it may fail, but with a clear text."""
    error = world.request(host).error  # type: ignore[arg-type]
    assert not error or "etcd" in error, error
    return not error


def test_all_members_are_gone_for_long(world: World) -> None:
    box = world.attach(world.hosts[1])
    world.cluster.stop()
    for host in world.hosts:
        world.assert_refused(host, "try again when etcd is back")
    box.host.dockerd.ok("NetworkDriver.Leave", NetworkID=world.network,
                        EndpointID=box.endpoint)  # needs no etcd
    # dockerd forgets the endpoint whatever the answer; the driver removes it once etcd is back.
    reply = box.host.dockerd.call("NetworkDriver.DeleteEndpoint", NetworkID=world.network,
                                  EndpointID=box.endpoint)
    assert "etcd" in reply.error
    reply = box.host.dockerd.call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{POOL}",
                                  Address=box.ip)
    assert "etcd" in reply.error
    # Wait until everything of ours has expired: leases, watches' probes, all retries.
    gone_s = time.monotonic()
    while time.monotonic() < gone_s + TTL_S + 1:
        world.assert_data_path()
    world.cluster.start()
    # By itself: no call comes that would settle it.
    wait_until(lambda: box.ip not in world.held(), LONG_S, "the address is free")
    wait_until(world.converged, LONG_S, "the endpoint is gone")
    world.wait_converged()


def test_a_host_is_cut_off(world: World) -> None:
    """It is cut off from etcd alone until its lease is over; meanwhile etcd is compacted."""
    here, there = world.hosts
    removed = world.attach(here)
    wait_until(world.converged, LONG_S, "the other host learns of it")
    with world.cut_off(2):
        world.assert_data_path()
        world.assert_refused(there, "try again when etcd is back")
        world.detach(removed)
        added = world.attach(here)
        wait_until(lambda: len(world.cluster.entries(keys.HOSTS)) == 1, LONG_S,
                   "the host's lease is over")
        world.compact()
        # It is alive, and its peers find that out.
        world.assert_data_path()
        assert not world.request(here).error
    wait_until(world.converged, LONG_S, "the host catches up")
    world.detach(added)
    world.wait_converged()


def test_the_disk_is_full(world: World) -> None:
    box = world.attach(world.hosts[1])
    for number in range(QUOTA_BYTES // 1_000_000 + 2):
        if world.cluster.etcdctl("put", f"/junk/{number}", text="x" * 1_000_000,
                                 check=False).returncode:
            break
    assert "NOSPACE" in world.cluster.etcdctl("alarm", "list").stdout
    for host in world.hosts:
        world.assert_refused(host, "compact and defragment")
    reply = box.host.dockerd.call("NetworkDriver.Leave", NetworkID=world.network,
                                  EndpointID=box.endpoint)
    reply = box.host.dockerd.call("NetworkDriver.DeleteEndpoint", NetworkID=world.network,
                                  EndpointID=box.endpoint)
    assert "compact and defragment" in reply.error
    box.host.dockerd.call("IpamDriver.ReleaseAddress", PoolID=f"slim-local/{POOL}",
                          Address=box.ip)
    world.assert_data_path()
    assert len(world.cluster.entries(keys.HOSTS)) == 2  # existing leases are renewed
    # The advice of docs/recovery.md.
    world.cluster.etcdctl("del", "--prefix", "/junk/")
    world.compact()
    for member in world.cluster.members:
        world.cluster.etcdctl("defrag", "--command-timeout=60s", endpoints=(member.url,))
    world.cluster.etcdctl("alarm", "disarm")
    world.wait_converged()


def test_certificates_are_replaced(world: World, tmp_path: Path) -> None:
    """First etcd, then the hosts get those of another authority; no driver is restarted."""
    files = world.new_authority(tmp_path / "other")
    world.restart_members()
    for host in world.hosts:
        world.assert_refused(host, "signed by a CA of --etcd-ca")
    world.assert_data_path()
    for host in world.hosts:
        install(files, [str(host.folder / name) for name in ("ca.pem", "cert.pem", "key.pem")])
    world.wait_converged()


def test_the_password_is_changed(world: World) -> None:
    world.cluster.etcdctl("user", "passwd", "slim", "--interactive=false", text="changed\n")
    world.restart_members()  # logged-in clients must log in again
    for host in world.hosts:
        world.assert_refused(host, "correct --etcd-user")
    world.assert_data_path()
    for host in world.hosts:
        (host.folder / "password").write_text("changed\n")
    world.wait_converged()


def test_a_member_that_is_frozen(world: World) -> None:
    """It does not answer; once it wakes, it has all that it was sent."""
    victim: Etcd = world.cluster.leader()
    victim.freeze()
    try:
        world.assert_data_path()
        for host in world.hosts:
            wait_until(lambda h=host: works(world, h), LONG_S, "calls work")  # type: ignore[misc]
    finally:
        victim.thaw()
    world.wait_converged()
