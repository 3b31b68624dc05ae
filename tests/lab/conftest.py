"""Provides the fixtures of the lab: one lab per Docker release, with a driver on each host.

After each test, whatever its result, they check that the hosts and the store are as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import pytest

from tests.lab.rig import dockers
from tests.lab.rig.hosts import Host, Lab, lab_of_this_process
from tests.lab.rig.seeds import BUSYBOX, TOOLS, images_seed
from tests.lab.rig.snapshot import HostState, host_state, remove_everything, store_keys
from tests.support.run.wait import wait_until

__all__ = ["BUSYBOX", "CALL", "SERVE", "TOOLS"]  # BUSYBOX and TOOLS are image tags
# Commands of the tools image: a server that reports what it sees, and its client.
SERVE = ("python3", "/programs/tcp.py", "serve", "7000")
CALL = ("python3", "/programs/tcp.py", "call", "--retry-s", "10")
# Fixtures that are a lab of one release: scope, and the releases of a test without the mark.
LABS: dict[str, tuple[Literal["session", "package", "module"], tuple[str, ...]]] = {
    "lab": ("session", dockers.VERSIONS[:1]),
    "plugged": ("package", (dockers.VERSIONS[0], dockers.MIXED)),
    "alone": ("module", (dockers.VERSIONS[0], dockers.MIXED))}
CLEAN_S = 10  # Docker and the driver finish some removals only after they have answered


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker(version, ...): the releases on which a test runs")
    config.addinivalue_line("markers", "feature(name): its row in docs/compatibility.md")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("docker")
    for fixture, (scope, usual) in LABS.items():
        if fixture in metafunc.fixturenames:
            wanted = mark.args if mark else usual
            metafunc.parametrize(fixture, wanted, ids=[f"docker-{name}" for name in wanted],
                                 indirect=True, scope=scope)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two hosts, h1 and h2, with dockerd, the tests' images, and an etcd between them."""
    with lab_of_this_process("slimtest", *dockers.trees(request.param),
                             seeds=lambda tree: [images_seed(tree)]) as made:
        made.up(2)
        made.start_etcd()
        yield made
        for host in made.hosts:
            host.stop_driver()  # it must end by itself


@pytest.fixture
def hosts(lab: Lab, request: pytest.FixtureRequest) -> Iterator[list[Host]]:
    """Every host of the lab, with its driver running; checks afterwards that all is as before."""
    hosts = lab.hosts
    with ThreadPoolExecutor() as pool:
        list(pool.map(Host.start_driver, hosts))
        before = list(pool.map(host_state, hosts))
    keys = store_keys(lab)
    try:
        yield hosts
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.start_driver, hosts))  # a test may have stopped it
            list(pool.map(remove_everything, hosts))
    for host, state in zip(hosts, before, strict=True):
        wait_for_none(partial(difference, host, state), f"left on {host.name}")
    wait_for_none(lambda: ", ".join(sorted(store_keys(lab) ^ keys)), "changed in etcd")


def difference(host: Host, before: HostState) -> str:
    return before.difference(host_state(host))


def wait_for_none(difference: Callable[[], str], what: str, timeout_s: float = CLEAN_S) -> None:
    last = [""]

    def none() -> bool:
        last[0] = difference()
        return not last[0]

    with contextlib.suppress(AssertionError):
        wait_until(none, timeout_s, what)
    assert not last[0], f"{what}: {last[0]}"


@pytest.fixture
def h1(hosts: list[Host]) -> Host:
    return hosts[0]


@pytest.fixture
def h2(hosts: list[Host]) -> Host:
    return hosts[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of every driver's log to a failure's report."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and lab is not None:
        for host in lab.hosts:
            if host.driver_log.exists():
                text = host.driver_log.read_text(errors="replace")
                report.sections.append((f"driver of {host.name}", text[-6000:]))
    return report
