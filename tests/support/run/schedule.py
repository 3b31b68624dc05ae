"""Orders the tests, and groups them into units that share one of xdist's workers.

A file stays with one worker, so that it is set up once.  If it runs on several Docker releases,
each release is a separate unit: then a worker brings up one release's lab once.
"""

from __future__ import annotations

import re
from pathlib import PurePath

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from tests.support.run.tiers import lab_of

_RELEASE = re.compile(r"\[(docker-[\w.]+)")
# One swarm for all its files; and one lab after the other, since those of three files at once are
# too many hosts for the machine.
_TOGETHER = ("tests/lab/swarm", "tests/lab/cluster")
# Units that take minutes and mostly wait, the longest first: others compute meanwhile.
_WAITING = (*_TOGETHER, "tests/lab/restarts/test_dockerd.py",
            "tests/lab/restarts/test_dead_host.py")
# Units that take a minute or more: they come first in their folder.
_LONG = {"tests/lab/restarts/test_driver.py", "tests/lab/docker/test_failures.py",
         "tests/lab/restarts/test_boot_with_many.py",
         "tests/unit/whole/test_every_step.py", "tests/contract/records/test_address_history.py",
         "tests/contract/feeds/test_feeds.py", "tests/contract/feeds/test_past.py",
         "tests/contract/hosts/test_membership.py",
         "tests/netns/spoilt/test_driver.py", "tests/netns/spoilt/test_network.py",
         "tests/netns/cluster/test_etcd_faults.py", "tests/netns/cluster/test_absent_host.py",
         "tests/netns/underlay/test_blocked_peers.py", "tests/netns/kept_off/test_own_rules.py"}


def unit(nodeid: str) -> str:
    """Return the name of a test's unit."""
    path, _, _ = nodeid.partition("::")
    folder = str(PurePath(path).parent)
    what = folder if folder in _TOGETHER else path
    release = _RELEASE.search(nodeid)
    return f"{what} {release[1]}" if release else what


class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker the next unit when it has nearly finished its last one."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def place(item: pytest.Item, labs: tuple[str, ...]) -> tuple[int, int, int]:
    """Return the sort key: long units first, so that no worker is alone with one at the end.

    labs: the releases, in the order in which their labs come up.
    """
    path, _, _ = item.nodeid.partition("::")
    folder = PurePath(path).parts[1]
    lab = lab_of(item)
    release = labs.index(lab) + 1 if lab in labs else 0
    for number, waiting in enumerate(_WAITING):
        if path.startswith(waiting) and release <= 1:  # those of later releases wait for their turn
            return 0, release, number
    return (1 if folder == "netns" else 2 if folder == "lab" else 3, release,
            0 if path in _LONG else 1)
