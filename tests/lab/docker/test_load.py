"""Starts many containers at once on two hosts and removes them at once, again and again.

Each round must leave nothing and assign no address twice.  LOAD_ROUNDS=20 runs 20 rounds of a
hundred containers, each of a minute and more.  Without it there is one small round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from driver.link.netlink.names import is_host_name
from tests.lab.conftest import BUSYBOX, difference, wait_for_none
from tests.lab.docker.test_docker import create_network
from tests.lab.rig.dockers import VERSIONS, docker, feature
from tests.lab.rig.hosts import Host, Lab
from tests.lab.rig.snapshot import HostState, host_state, store_keys
from tests.support.run.wait import wait_until

WHOLE = "LOAD_ROUNDS" in os.environ
ROUNDS = int(os.environ.get("LOAD_ROUNDS", "1"))
EACH = 50 if WHOLE else 8  # containers on each of the two hosts
LIMIT_S = 400  # for one of the two halves of a round
# Runs docker clients side by side on one host; it fails if one of them does.
AT_ONCE = """
    for number in $(seq $0); do %s & pids="$pids $!"; done
    for pid in $pids; do wait $pid || failed=1; done
    exit $failed
"""
START = AT_ONCE % "docker run -d --name c$number --network app busybox sleep infinity >/dev/null"
REMOVE = AT_ONCE % "docker rm -f c$number >/dev/null"


def on_all(hosts: Sequence[Host], act: Callable[[Host], object]) -> list[object]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(act, hosts))


def at_once(script: str, host: Host) -> None:
    host.exec("sh", "-c", script, str(EACH), timeout_s=LIMIT_S)


def addresses(host: Host) -> list[str]:
    names = host.docker("ps", "-q").split()
    return host.docker("inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}",
                       *names).split()


def timed(act: Callable[[], object]) -> float:
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def resident_mb(host: Host) -> float:
    """Return the resident memory of the host's driver."""
    assert host.driver is not None
    text = host.exec("sh", "-c", "cat /proc/$(cat $0)/status", host.driver._pid_file)
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def has_links(host: Host) -> bool:
    return any(is_host_name(link) for link in host_state(host).links)


def assert_as_before(lab: Lab, states: dict[str, HostState], keys: frozenset[str]) -> None:
    for host in lab.hosts:
        wait_for_none(partial(difference, host, states[host.name]), f"left on {host.name}", 30)
    wait_for_none(lambda: ", ".join(sorted(store_keys(lab) ^ keys)), "changed in etcd", 30)


@docker(VERSIONS[0])
@feature("many containers started at once")
@pytest.mark.timeout(max(180, ROUNDS * 600 * WHOLE))
def test_parallel_starts_and_removals_leave_nothing(lab: Lab, hosts: list[Host]) -> None:
    create_network(hosts)
    # The first container brings docker_gwbridge and its rules, which stay.
    on_all(hosts, lambda host: host.docker("run", "--rm", "--network", "app", BUSYBOX, "true"))
    wait_until(lambda: not any(has_links(host) for host in hosts), 10, "their links are removed")
    states, keys = {host.name: host_state(host) for host in hosts}, store_keys(lab)
    taken: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        started_s = timed(lambda: on_all(hosts, partial(at_once, START)))
        given = [address for host in hosts for address in addresses(host)]
        assert len(given) == len(set(given)) == len(hosts) * EACH
        removed_s = timed(lambda: on_all(hosts, partial(at_once, REMOVE)))
        assert_as_before(lab, states, keys)
        taken.append((started_s, removed_s))
        memory = ", ".join(f"{host.name} {resident_mb(host):.0f} MB" for host in hosts)
        print(f"round {number + 1}: {len(given)} started in {started_s:.1f} s, removed in "
              f"{removed_s:.1f} s; driver: {memory}", flush=True)
    starts, removals = zip(*taken, strict=True)
    print(f"medians of {ROUNDS}: {statistics.median(starts):.1f} s, "
          f"{statistics.median(removals):.1f} s")
