"""Tests rows 50-53 and 55 of the plugin contract's checklist: dockerd ends, and hosts reboot.

dockerd is stopped and killed, with and without live-restore, with the driver up and down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from driver.datapath.loading.layout import pin_folder
from driver.store.format import keys
from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import address_of, call, check_views, create_network, start
from tests.lab.restarts.test_driver import Load, lost
from tests.lab.rig.hosts import LAB_SH, CommandFailed, Host, Lab, run
from tests.support.run.wait import wait_until
from tests.support.world.etcd import live_keys

# A dockerd without its driver looks for it for 15 s, four times at a start and twice at an end;
# a busy machine takes longer still.
pytestmark = pytest.mark.timeout(400)
# Collect what Docker has forgotten soon, not after the usual five minutes.
COLLECTING = ("--collect-after", "3")
BACK_S = 60  # until Docker has started containers again


def stop_dockerd(host: Host, how: str) -> None:
    if how == "TERM":
        run([str(LAB_SH), "stop", host.name], env=host.lab.env)
    else:
        # Wait for its end, or lab.sh would take it for a dockerd that runs.
        host.exec("sh", "-c", "p=$(cat /run/docker.pid); kill -KILL $p; "
                  "while kill -0 $p 2> /dev/null; do sleep 0.02; done")


def start_dockerd(host: Host) -> None:
    run([str(LAB_SH), "start", host.name], env=host.lab.env)


def running(host: Host, name: str) -> bool:
    return bool(host.inspect(name)["State"]["Running"])


def wait_running(host: Host, name: str) -> str:
    """Wait until Docker has the container running again; return its address."""
    wait_until(lambda: running(host, name), BACK_S, f"{name} runs again")
    return address_of(host, name)


def endpoints_in_etcd(lab: Lab) -> int:
    """Count the endpoints that other hosts learn of."""
    return len(live_keys(lab.stored(keys.ENDPOINTS)))


def directory(host: Host) -> set[str]:
    """Return the addresses in the kernel map that the host's connect() hooks read."""
    dumped = json.loads(host.exec("bpftool", "--json", "map", "dump", "pinned",
                                  f"{pin_folder(Path('/sys/fs/bpf'))}/directory") or "[]")
    # struct address: the VNI, then the address in network order.
    return {".".join(str(int(byte, 16)) for byte in entry["key"][4:8]) for entry in dumped}


def start_driver(host: Host) -> None:
    host.start_driver(*COLLECTING)


@pytest.fixture(autouse=True)
def collecting(h1: Host) -> Iterator[None]:
    if h1.driver is None or COLLECTING[0] not in h1.driver.argv:
        h1.stop_driver()
    start_driver(h1)
    yield
    start_driver(h1)


@pytest.mark.parametrize("how", ["TERM", "KILL"])
@pytest.mark.parametrize("driver", ["up", "down"])
def test_row_50_dockerd_stops_and_starts(how: str, driver: str, lab: Lab, h1: Host,
                                         h2: Host) -> None:
    """Networks work afterwards, and what dockerd forgot is collected."""
    create_network([h1, h2])
    bob = start(h2, "bob", *SERVE)
    start(h1, "stays", *SERVE, options=["--restart", "always"])
    start(h1, "ends", *SERVE)
    if driver == "down":
        h1.kill_driver()
    stop_dockerd(h1, how)
    started_s = time.monotonic()
    start_dockerd(h1)
    print(f"dockerd is back after {time.monotonic() - started_s:.1f} s")
    start_driver(h1)
    if not running(h1, "stays"):  # a dockerd without its driver gives up
        h1.docker("start", "stays")
    address = wait_running(h1, "stays")
    assert not running(h1, "ends")
    check_views(call(h1, "stays", bob), client=address, server=bob)
    check_views(call(h2, "bob", address), client=bob, server=address)
    h1.docker("start", "ends")
    third = address_of(h1, "ends")
    assert len({bob, address, third}) == 3
    check_views(call(h1, "ends", address), client=third, server=address)
    wait_until(lambda: endpoints_in_etcd(lab) == 3, 60, "stale endpoints are collected")


@pytest.fixture
def live_restore(h1: Host) -> Iterator[None]:
    """Make h1's dockerd leave containers running when it ends."""
    setting = "/etc/docker/daemon.json"
    h1.exec("sh", "-c", f"echo '{{\"live-restore\": true}}' > {setting}")
    stop_dockerd(h1, "TERM")
    start_dockerd(h1)
    try:
        yield
    finally:
        start_driver(h1)
        names = h1.docker("ps", "-q").split()
        if names:
            h1.docker("rm", "-f", *names)
        h1.exec("rm", setting)
        stop_dockerd(h1, "TERM")
        start_dockerd(h1)


@pytest.mark.usefixtures("live_restore")
@pytest.mark.parametrize("how", ["TERM", "KILL"])
@pytest.mark.parametrize("driver", ["up", "down"])
def test_row_51_live_restore(how: str, driver: str, lab: Lab, h1: Host, h2: Host) -> None:
    """Traffic flows all the time, and removal afterwards leaves nothing."""
    create_network([h1, h2])
    server = start(h2, "server", *SERVE)
    load = Load(h1, server)
    load.goes_on()
    if driver == "down":
        h1.kill_driver()
    made, before = load.made(), lost(h1, h2)
    stop_dockerd(h1, how)
    start_dockerd(h1)
    start_driver(h1)
    wait_until(lambda: load.made() > made, 30, "connections went on")
    load.goes_on()
    assert lost(h1, h2) == before
    assert load.end()["failures"] == []
    h1.docker("start", "load")
    load.goes_on()
    h1.docker("rm", "-f", "load")
    wait_until(lambda: endpoints_in_etcd(lab) == 1, 60, "only the server is left")


@pytest.mark.parametrize("late", [False, True], ids=["driver first", "driver late"])
def test_row_53_reboot(late: bool, lab: Lab, h1: Host, h2: Host) -> None:
    """The host has lost all kernel state, and kept its disk."""
    create_network([h1, h2])
    bob = start(h2, "bob", *SERVE)
    old = start(h1, "server", *SERVE, options=["--restart", "always"])
    start(h1, "other", *SERVE)
    call(h2, "bob", old)
    h1.docker("stop", "other")
    run([str(LAB_SH), "crash", h1.name], env=lab.env)
    assert h1.driver is not None
    h1.driver.join()
    if late:
        lab.up(2)
        start_driver(h1)
    else:
        h1.reboot(*COLLECTING)
    if not running(h1, "server"):
        h1.docker("start", "server")
    address = wait_running(h1, "server")
    check_views(call(h1, "server", bob), client=address, server=bob)
    check_views(call(h2, "bob", address), client=bob, server=address)
    h1.docker("start", "other")
    other = address_of(h1, "other")
    check_views(call(h2, "bob", other), client=bob, server=other)
    wait_until(lambda: endpoints_in_etcd(lab) == 3, 60, "the old endpoints are collected")
    wait_until(lambda: all(directory(host) == {address, bob, other} for host in (h1, h2)), 10,
               "both hosts' maps say what etcd says")


def test_row_55_no_stall_while_the_driver_is_stopped(h1: Host) -> None:
    """Listing volumes asks every plugin socket, so a stopped driver must leave none."""
    h1.docker("volume", "ls")
    h1.stop_driver()
    h1.exec("docker", "volume", "ls", timeout_s=10)
    with pytest.raises(CommandFailed, match="slim"):
        create_network([h1], "late")


def test_row_52_run_waits_for_a_driver_that_comes_back(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    bob = start(h2, "bob", *SERVE)
    start(h1, "before")  # dockerd knows the driver
    h1.kill_driver()
    with ThreadPoolExecutor() as pool:
        started = pool.submit(start, h1, "alice", *SERVE)
        start_driver(h1)
        alice = started.result()
    check_views(call(h1, "alice", bob), client=alice, server=bob)


def test_row_52_run_and_rm_without_a_driver(lab: Lab, h1: Host, h2: Host) -> None:
    """A start fails cleanly; the driver, once back, collects what was removed meanwhile."""
    create_network([h1, h2])
    bob = start(h2, "bob", *SERVE)
    start(h1, "alice", *SERVE)
    h1.kill_driver()
    with pytest.raises(CommandFailed, match="slim"):
        start(h1, "late")
    h1.docker("rm", "-f", "alice", "late", timeout_s=180)
    start_driver(h1)
    wait_until(lambda: endpoints_in_etcd(lab) == 1, 60, "alice's endpoint is collected")
    late = start(h1, "late", *SERVE)
    check_views(call(h1, "late", bob), client=late, server=bob)
