"""Lists the Docker releases that the lab runs, and the marks by which tests choose among them.

get-docker.sh fetches the releases.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.run.skips import CannotBeDownloaded
from tests.support.run.tiers import USUAL_LAB

VERSIONS = (USUAL_LAB, "26", "28")
MIXED = "mixed"  # one host of each release
LABS = (*VERSIONS, MIXED)  # in this order, one at a time
_GET_DOCKER = Path(__file__).with_name("get-docker.sh")

# Without this mark a test runs on the first version alone; a test on the swarm runs also on MIXED.
# tests/support/run/tiers.py says what runs only before a release of slim.
docker = pytest.mark.docker
every_docker = docker(*VERSIONS)
# The row of docs/compatibility.md in which a test's results count.
feature = pytest.mark.feature
# A test records this property if this machine lacks something for its feature; the value says what.
# The test then checks what works without it.
MISSING = "missing"


def trees(lab: str, count: int = 1) -> list[str]:
    """Return the folders of a lab's releases, for its hosts in turn; `lab` is one of LABS.

    count: for a lab of one release, the number of hosts.

    Error: CannotBeDownloaded (skips the test).
    """
    return [_tree(version) for version in (VERSIONS if lab == MIXED else (lab,) * count)]


def _tree(version: str) -> str:
    done = subprocess.run([_GET_DOCKER, version], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBeDownloaded(done.stderr.strip())
    return done.stdout.strip()
