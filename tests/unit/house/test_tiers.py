"""Tests the tiers: each runs all of the one before, and none leaves a behaviour to test-all."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.lab.rig import passed
from tests.lab.rig.dockers import LABS, VERSIONS
from tests.support.faults.steps import each_step
from tests.support.run.tiers import (
    AGAIN,
    ALL,
    CHECK,
    FOLDERS,
    LOAD,
    NEWER_ONLY,
    PRODUCT,
    TEST,
    VARIANTS,
    is_one_of,
    is_variant,
    kill_stride,
    reads,
    runs,
    tier,
)

LIMIT_S = 300  # pytest reads all tests, on a busy machine
# Docker's calls to the driver, without EndpointOperInfo, which no start depends on.
CALLS = {"RequestPool", "RequestAddress", "CreateNetwork", "CreateEndpoint", "Join", "Leave",
         "DeleteEndpoint", "ReleaseAddress", "ReleasePool", "DeleteNetwork"}


def collected(project: Path, *arguments: str) -> set[str]:
    """Ids of the tests that pytest would run."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider",
         *arguments], cwd=project, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def lab_named_in(nodeid: str) -> str | None:
    found = re.search(r"\[docker-([\w.]+)", nodeid)
    return found[1] if found and nodeid.startswith("tests/lab/") else None


def of_function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


@pytest.mark.timeout(2 * LIMIT_S)
def test_each_tier_runs_all_of_the_one_before(project: Path) -> None:
    whole = collected(project)
    test = {nodeid for nodeid in whole if runs(TEST, nodeid, lab_named_in(nodeid))}
    check = {nodeid for nodeid in whole if runs(CHECK, nodeid, None)}
    assert check < test < whole
    files = {str(path.relative_to(project)) for path in project.glob("tests/**/test_*.py")}
    assert {nodeid.partition("::")[0] for nodeid in whole} == files
    # `make test` tests every behaviour once: tiers.py names what only test-all runs.
    only_for_a_release = {of_function(nodeid) for nodeid in whole} - set(map(of_function, test))
    unnamed = {name for name in only_for_a_release
               if not is_one_of((*LOAD, *AGAIN, *PRODUCT, *NEWER_ONLY), name)}
    assert unnamed == set(), "it runs on the usual release too, or is named in tiers.py"
    for name in (*LOAD, *AGAIN, *PRODUCT, *NEWER_ONLY):
        assert any(is_one_of((name,), found) for found in only_for_a_release), f"{name}: no such"
    for name, other in AGAIN.items():
        assert any(is_one_of((other,), found) for found in test), f"{name} is nowhere else"
    for name, ends in VARIANTS.items():
        for end in ends:
            assert any(found.startswith(f"{name}[") and found.endswith(f"{end}]")
                       for found in whole), f"{name}[{end}]: no such"
        assert any(of_function(found) == name for found in test), f"{name}: no variant is left"
    assert not any(map(is_variant, test))
    # Each of Docker's calls, and each way in which one can fail.
    failures = "\n".join(found for found in test
                         if found.startswith("tests/lab/docker/test_failures"))
    assert {call for call in CALLS if f"-{call}-" in failures} == CALLS
    for how in ("-refused]", "done and refused]", "-cut]", "done and cut]"):
        assert failures.count(how) >= 4, how
    assert not [nodeid for nodeid in test if re.search(r"docker-(?!20\.10)", nodeid)
                and not nodeid.startswith("tests/wire/")], "a recorded request needs no Docker"


def test_pytest_runs_the_tier_that_it_is_asked_for(project: Path) -> None:
    """The file has tests of both tiers, for both reasons."""
    path = "tests/lab/restarts/test_lost_etcd.py"
    whole = collected(project, path)
    wanted = {nodeid for nodeid in whole if runs(TEST, nodeid, lab_named_in(nodeid))}
    assert wanted < whole
    assert collected(project, "--tier", TEST, path) == wanted
    assert collected(project, "--tier", ALL, path) == whole


def test_every_folder_of_tests_has_a_tier(project: Path) -> None:
    folders = {path.relative_to(project / "tests").parts[0]
               for path in project.glob("tests/**/test_*.py")}
    assert folders == set(FOLDERS)
    assert not reads(CHECK, "netns")
    assert reads(CHECK, "support"), "not a folder of tests, but theirs"


@pytest.mark.parametrize("lab", LABS)
def test_what_runs_on_other_releases_is_for_a_release(lab: str) -> None:
    test = "tests/lab/test_x.py::test_y[docker]"
    assert tier(test, lab) == (TEST if lab == VERSIONS[0] else ALL)
    assert runs(ALL, test, lab)
    assert not runs(CHECK, test, lab)


def tried(count: int, stride: int) -> list[int]:
    """Return which of `count` steps are spoilt."""
    asked: list[int] = []

    def live(at: int) -> str:
        asked.append(at)
        return "a step" if at <= count else ""

    each_step(live, lambda: count, stride)
    return [at for at in asked if at <= count]


def test_a_release_kills_at_every_step_and_the_tests_at_the_first_the_last_and_between() -> None:
    for count in range(1, 30):
        assert tried(count, kill_stride(ALL)) == list(range(1, count + 1))
        some = tried(count, kill_stride(TEST))
        assert (some[0], some[-1]) == (1, count)
        assert max((b - a for a, b in pairwise(some)), default=0) <= kill_stride(TEST)


def test_a_call_without_steps_or_without_end_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no step"):
        tried(0, 1)
    for stride in (kill_stride(ALL), kill_stride(TEST)):
        with pytest.raises(AssertionError, match="never ends"):
            tried(10 ** 6, stride)


def test_the_line_says_when_where_and_how_long() -> None:
    assert passed.line(0.0, 3600.0, "at abc") == (
        "`make test-all` last passed on 1970-01-01, at abc, in 60 minutes.\n")


def test_the_line_names_the_tree(tmp_path: Path) -> None:
    assert passed.tree(tmp_path) == "in a tree without git"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path)]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/compatibility.md").write_text("a")
    (tmp_path / "code").write_text("a")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "docs/compatibility.md").write_text("b")  # the run has written its table
    assert re.fullmatch("at [0-9a-f]+", passed.tree(tmp_path))
    (tmp_path / "code").write_text("b")
    assert passed.tree(tmp_path).endswith(" with changes")


def test_the_document_has_a_place_for_the_line(project: Path) -> None:
    found = passed.LINE.findall((project / "docs/compatibility.md").read_text())
    assert len(found) == 1
    assert found[0].startswith("`make test-all` ")
