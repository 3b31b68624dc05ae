"""Owns in which order tests run, and which of them share one of xdist's workers.

A file stays with one worker, and so does what it sets up; of a file that runs on several Docker
releases each release is a unit of its own, for a worker to bring up one release's lab once.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

_RELEASE = re.compile(r"\[(docker-[\w.]+)")
_TOGETHER = "tests/lab/swarm"  # one swarm for all its files


def unit(nodeid: str) -> str:
    """Name what a test is part of."""
    path, _, _ = nodeid.partition("::")
    folder = str(PurePath(path).parent)
    if folder == _TOGETHER:
        return folder
    release = _RELEASE.search(nodeid)
    return f"{path} {release[1]}" if release else path


class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker the next unit when it is nearly done with its last."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def place(item: pytest.Item, labs: tuple[str, ...]) -> tuple[int, int]:
    """Sort key: long units first, for no worker to be alone with one at the end.

    labs: the releases, in the order in which their labs come up.
    """
    folder = PurePath(item.nodeid).parts[1]
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    lab = parameters.get("lab")
    return (0 if folder == "netns" else 1 if folder == "lab" else 2,
            labs.index(lab) + 1 if lab in labs else 0)
