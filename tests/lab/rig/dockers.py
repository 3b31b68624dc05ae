"""The Docker releases that the lab runs, and the marks that say which tests want which.

Where a release comes from is get-docker.sh's matter; what a test does with it, the test's.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.run.skips import CannotBeDownloaded
from tests.support.run.tiers import USUAL_LAB

VERSIONS = (USUAL_LAB, "26", "28")
MIXED = "mixed"  # a host of each
LABS = (*VERSIONS, MIXED)  # in this order, one at a time
_GET_DOCKER = Path(__file__).with_name("get-docker.sh")

# Without this mark a test runs on the first version alone, and one with a swarm of its own on it
# and on a host of each.  What runs only before a release: tests/support/run/tiers.py.
docker = pytest.mark.docker
every_docker = docker(*VERSIONS)
# The row of docs/compatibility.md in which a test's results count.
feature = pytest.mark.feature
# Property that a test records if its feature cannot be had on this machine: what is missing.  The
# test then looks at what is to be seen without it.
MISSING = "missing"


def trees(lab: str, count: int = 1) -> list[str]:
    """Return folders of the releases that this one of LABS is made of, for hosts in turn.

    count: of a release alone, for so many hosts.

    Error: CannotBeDownloaded (skips the test).
    """
    return [_tree(version) for version in (VERSIONS if lab == MIXED else (lab,) * count)]


def _tree(version: str) -> str:
    done = subprocess.run([_GET_DOCKER, version], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBeDownloaded(done.stderr.strip())
    return done.stdout.strip()
