"""Tests which tests share a worker, and in which order they run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.lab.rig.dockers import LABS
from tests.support.run.schedule import place, unit


def test_a_release_of_a_file_is_a_unit() -> None:
    lab = "tests/lab/docker/test_docker.py"
    assert unit(f"{lab}::test_a[docker-20.10]") == unit(f"{lab}::test_b[docker-20.10-x]")
    assert unit(f"{lab}::test_a[docker-28]") != unit(f"{lab}::test_a[docker-20.10]")
    assert unit(f"{lab}::test_a[docker-28]") != unit(
        "tests/lab/tools/test_lab.py::test_a[docker-28]")


def test_other_files_are_units() -> None:
    assert unit("tests/unit/test_a.py::test_b[x]") == unit("tests/unit/test_a.py::test_c")
    assert unit("tests/unit/test_a.py::test_b") != unit("tests/unit/test_b.py::test_b")


def test_the_swarm_is_one() -> None:
    assert unit("tests/lab/swarm/test_swarm.py::test_a[docker-mixed]") == unit(
        "tests/lab/swarm/test_swarm_nodes.py::test_b[docker-mixed]")
    assert unit("tests/lab/swarm/test_swarm.py::test_a[docker-mixed]") != unit(
        "tests/lab/swarm/test_swarm.py::test_a[docker-20.10]")


def item(nodeid: str, **parameters: str) -> Any:
    return SimpleNamespace(nodeid=nodeid, callspec=SimpleNamespace(params=parameters))


def test_what_mostly_waits_is_first_and_later_releases_are_last() -> None:
    ordered = [
        item("tests/lab/swarm/test_swarm_nodes.py::test_a[docker-20.10]", plugged="20.10"),
        item("tests/lab/restarts/test_dead_host.py::test_a[docker-20.10]", lab="20.10"),
        item("tests/netns/test_a.py::test_b"),
        item("tests/lab/docker/test_failures.py::test_a[docker-20.10]", lab="20.10"),
        item("tests/lab/docker/test_docker.py::test_a[docker-20.10]", lab="20.10"),
        item("tests/lab/swarm/test_swarm_nodes.py::test_a[docker-mixed]", plugged="mixed"),
        item("tests/unit/whole/test_every_step.py::test_a"),
        item("tests/unit/test_a.py::test_b"),
    ]
    collected = ordered[::-1]
    again = sorted(collected, key=lambda each: place(each, LABS))
    assert [each.nodeid for each in again] == [each.nodeid for each in ordered]
