"""Which tests share a worker."""

from __future__ import annotations

from tests.support.schedule import unit


def test_a_release_of_a_file_is_a_unit() -> None:
    lab = "tests/lab/test_docker.py"
    assert unit(f"{lab}::test_a[docker-20.10]") == unit(f"{lab}::test_b[docker-20.10-x]")
    assert unit(f"{lab}::test_a[docker-28]") != unit(f"{lab}::test_a[docker-20.10]")
    assert unit(f"{lab}::test_a[docker-28]") != unit("tests/lab/test_lab.py::test_a[docker-28]")


def test_other_files_are_units() -> None:
    assert unit("tests/unit/test_a.py::test_b[x]") == unit("tests/unit/test_a.py::test_c")
    assert unit("tests/unit/test_a.py::test_b") != unit("tests/unit/test_b.py::test_b")


def test_the_swarm_is_one() -> None:
    assert unit("tests/lab/swarm/test_swarm.py::test_a") == unit(
        "tests/lab/swarm/test_swarm_nodes.py::test_b")
