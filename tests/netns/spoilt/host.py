"""Runs a host whose driver fails where the test says, and checks its state afterwards."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from driver.datapath.loading.layout import pin_folder
from driver.state.joins import FiledJoins
from driver.state.teardowns import FiledTeardowns
from tests.conftest import PROJECT
from tests.support.fakes.docker_api import serving
from tests.support.faults.steps import How
from tests.support.run.wait import wait_until
from tests.support.world import netns
from tests.support.world.maps import count_entries, opened
from tests.support.world.served import START_S, Host, one_host

MAPS = ("sandboxes", "veths", "endpoints", "directory", "reverse", "floods")
ETCD_PORT = 2379


class SpoiltHost(Host):
    """A host whose driver can be told to fail."""

    serials = itertools.count(1)
    docker_socket = ""  # without Docker's API the driver collects nothing

    def launch_driver(self) -> None:
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                self.netns.command(
                    sys.executable, "-m", "tests.support.faults.spoilt_driver", str(self.folder),
                    "serve", "--etcd", f"http://127.0.0.1:{ETCD_PORT}", "--underlay", "eth0",
                    "--cgroup", str(self.cgroup), "--bpffs", str(self.pins), "--socket",
                    self.socket, "--state", str(self.folder / "state"), "--docker-socket",
                    self.docker_socket, "--collect-after", "1", "--config", os.devnull),
                cwd=PROJECT, stdout=log, stderr=log)

    def spoil(self, at: int, how: How) -> None:
        for name in ("reached", "calls"):
            (self.folder / name).unlink(missing_ok=True)
        new = self.folder / "spoil.new"
        new.write_text(f"{next(self.serials)} {at} {how.name}")
        new.rename(self.folder / "spoil")

    def calls(self) -> list[str]:
        """Return the names of the calls since `spoil`, until the spoilt one or `heal`."""
        with suppress(FileNotFoundError):
            return (self.folder / "calls").read_text().splitlines()
        return []

    def reached(self) -> str:
        """Return the spoilt call's name; "" until it is made."""
        return self.calls()[-1] if (self.folder / "reached").exists() else ""

    def heal(self, how: How) -> str:
        """Let nothing fail any more; replace a killed driver.

        Returns the spoilt call's name, "" if it was not made.
        """
        # Before we look: a thread of the driver could make the call afterwards.
        (self.folder / "spoil").unlink(missing_ok=True)
        reached = self.reached()
        if reached and how is How.KILLED:
            assert self.driver is not None
            assert self.driver.wait(START_S) == -signal.SIGKILL
            self.start_driver()
        return reached

    def state(self) -> dict[str, object]:
        """Return what can leak."""
        stored = self.stored_keys()
        state = self.folder / "state"
        return {"links": self.links(), "etcd": stored, "joins": FiledJoins(state).all(),
                "to tear down": FiledTeardowns(state).outstanding(), **self.entries()}

    def assert_as_before(self, before: dict[str, object], where: str) -> None:
        """Assert that all is as before, with time for what the driver repeats at intervals."""
        with suppress(AssertionError):
            wait_until(lambda: self.state() == before, 30, "all as before")
        assert self.state() == before, f"{where}\n{self.log()}"

    def entries(self) -> dict[str, object]:
        """Return how many entries each map has, and which sandboxes have a bpf_link."""
        pins = pin_folder(self.pins)
        counted: dict[str, object] = {}
        for name in MAPS:
            with opened(next(pins.rglob(name))) as fd:
                counted[name] = count_entries(fd)
        counted["pins"] = sorted(pin.name for pin in pins.rglob("netns-*"))
        return counted


@dataclass
class Act:
    """One of dockerd's calls; `done`: whether everything that follows from it has happened."""

    name: str
    call: Callable[[], object]
    done: Callable[[], bool]


def perform(host: SpoiltHost, act: Act, at: int, how: How) -> str:
    """Make the call with one step spoilt, and again if it failed; return the step's name."""
    host.spoil(at, how)
    failed = False
    try:
        act.call()
    except (AssertionError, OSError, HTTPException):
        failed = True
    wait_until(lambda: host.reached() or act.done(), 30, f"{act.name}, or its step {at}")
    reached = host.heal(how)
    if failed:
        act.call()
    wait_until(act.done, 30, f"{act.name} is done after all; {at}: {reached}\n{host.log()}")
    return reached


class SpoiltHosts:
    """One host for many tests: a driver and an etcd take seconds to start.

    A host whose test failed is not used again.
    """

    def __init__(self, stack: ExitStack, folder: Callable[[], Path],
                 prepare: Callable[[SpoiltHost], object], *, docker: bool = False) -> None:
        """prepare: called once for each new host.  docker: answers in place of Docker's API."""
        self._stack, self._folder, self._prepare = stack, folder, prepare
        self._docker = docker
        self._free: SpoiltHost | None = None
        self.answer: Callable[[str], tuple[int, object]] = lambda url: (404, {})

    @contextmanager
    def lent(self) -> Iterator[SpoiltHost]:
        host, self._free = self._free or self._made(), None
        yield host
        self._free = host

    def _ask(self, url: str) -> tuple[int, object]:
        return self.answer(url)

    def _made(self) -> SpoiltHost:
        enter = self._stack.enter_context
        host = enter(one_host(lambda hint: enter(netns.made(hint)), self._folder(), SpoiltHost))
        if self._docker:
            host.docker_socket = str(host.folder / "docker.sock")
            enter(serving(host.docker_socket, self._ask))
        host.start_driver()
        host.start_etcd()
        self._prepare(host)
        return host
