"""Selects and orders the tests, and fails skipped tests in CI.

CI may skip only a test that raises CannotBeDownloaded.  Fixtures of one kind of test live in that
kind's folder.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.lab.rig.dockers import LABS
from tests.support.run import tiers
from tests.support.run.schedule import UnitScheduling, place
from tests.support.run.skips import CannotBeDownloaded

# No deadline: how long an example takes depends on how busy the machine is.
settings.register_profile("slim", deadline=None)
settings.load_profile("slim")

PROJECT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    # SIGTERM must end a run as Ctrl-C does, so that fixtures take down what they made.
    if not hasattr(config, "workerinput"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell has what it runs in the background ignore Ctrl-C, and what that starts would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> UnitScheduling:
    return UnitScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=tiers.TIERS, default=tiers.ALL,
                     help="what `make check`, `make test` or `make test-all` runs")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent != PROJECT / "tests":
        return None
    return not tiers.reads(config.getoption("--tier"), collection_path.name) or None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--tier")
    chosen = [item for item in items if tiers.runs(asked, item.nodeid, tiers.lab_of(item))]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen
    items.sort(key=lambda item: place(item, LABS))


FAILED = pytest.StashKey[bool]()  # set on an item once it or its set-up has failed


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def _reason(longrepr: object) -> str:
    return longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    allowed = call.excinfo is not None and isinstance(call.excinfo.value, CannotBeDownloaded)
    if report.skipped and _in_ci() and not allowed and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: nothing may be skipped here: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _in_ci():
        report.outcome = "failed"
        why = _reason(report.longrepr)
        report.longrepr = f"{collector.nodeid}: nothing may be skipped here: {why}"
    return report


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def kill_stride(request: pytest.FixtureRequest) -> int:
    """The n by which tests kill a real driver before each n-th step."""
    return tiers.kill_stride(request.config.getoption("--tier"))
