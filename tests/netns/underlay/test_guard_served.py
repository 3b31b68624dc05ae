"""Tests the guard of real drivers: it learns peers, outlives the driver, and ends by cleanup."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from driver.link.underlay.guard import Guarded, KernelGuard, remove_guard
from tests.netns.cluster.etcd_world import World
from tests.support.run.wait import wait_until
from tests.support.world.netns import require_root

REPAIR_S = 20.0  # shorter than the driver's own interval (driver.compose.parts.kernel.GUARD_S)


def test_the_life_of_a_guard(tmp_path: Path) -> None:
    require_root()
    with ExitStack() as stack:
        world = World(stack, tmp_path)
        stack.callback(world.close)
        for host in world.hosts:
            wait_until(lambda h=host: h.status()["guard"].startswith("1 hosts"),  # type: ignore[misc]
                       30, "the peer is guarded")
        here = world.hosts[0]
        here.netns.call(remove_guard)
        wait_until(lambda: here.netns.call(_table_is_there), REPAIR_S, "it is made anew")
        wait_until(lambda: here.status()["guard"].startswith("1 hosts"), REPAIR_S, "its repair")
        assert "the guard (nftables table slim) was removed" in here.log()
        here.netns.run("nft", "flush", "ruleset")
        wait_until(lambda: here.netns.call(_table_is_there), REPAIR_S, "it is made anew")
        # Only its part that drops nothing: the ports that NAT must not choose are unprotected.
        here.netns.run("nft", "flush", "chain", "ip", "slim", "translation")
        wait_until(lambda: here.netns.call(_table_is_there), REPAIR_S, "it is made whole")
        wait_until(lambda: here.status()["guard"].startswith("1 hosts"), REPAIR_S, "its repair")
        here.end_driver(signal.SIGTERM)
        assert here.netns.call(_table_is_there)  # the guard outlives the driver, as programs do
        done = here.netns.run(sys.executable, "-m", "driver", "cleanup", "--socket", here.socket,
                              "--bpffs", str(here.pins), "--config", os.devnull, check=False)
        assert done.returncode == 0, done.stderr
        assert "slim" not in here.netns.run("nft", "list", "ruleset").stdout
        here.start_driver()
        wait_until(lambda: here.status()["guard"].startswith("1 hosts"), 30, "it is back")


def _table_is_there() -> bool:
    return KernelGuard(Guarded(IPv4Address(0), 0, 0, (0, 0), (0, 0))).dropped() is not None
