"""The real driver, etcd, links and maps: each call of dockerd's is spoilt at step k for every k.

tests/unit/test_every_step.py does it to fakes and in every combination; this shows that the real
parts behave as the fakes.  dockerd's part is played by the test.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest

from driver.link.joins import FiledJoins
from driver.link.teardowns import FiledTeardowns
from tests.conftest import PROJECT
from tests.support.docker_api import serving
from tests.support.maps import count_entries, opened
from tests.support.netns import Netns
from tests.support.served import EP, NET, POOL, UNDERLAY, Host, one_host
from tests.support.steps import How
from tests.support.wait import wait_until

POOL_ID = f"slim-local/{POOL}"
ADDRESS = "10.50.0.9"
MAPS = ("sandboxes", "veths", "endpoints", "directory", "reverse", "floods")
STEPS_MAX = 60


class SpoiltHost(Host):
    """A host whose driver can be told to fail."""

    serials = itertools.count(1)
    docker_socket = ""  # nothing that Docker has forgotten is collected

    def start_driver(self) -> None:
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                self.netns.command(
                    sys.executable, "-m", "tests.support.spoilt_driver", str(self.folder),
                    "serve", "--etcd", "http://127.0.0.1:2379", "--underlay", "eth0",
                    "--cgroup", str(self.cgroup), "--bpffs", str(self.pins), "--socket",
                    self.socket, "--state", str(self.folder / "state"), "--docker-socket",
                    self.docker_socket, "--collect-after", "1", "--config", os.devnull),
                cwd=PROJECT, stdout=log, stderr=log)
        wait_until(self.answers, 90, "the driver answers")

    def spoil(self, at: int, how: How) -> None:
        with suppress(FileNotFoundError):
            (self.folder / "reached").unlink()
        new = self.folder / "spoil.new"
        new.write_text(f"{next(self.serials)} {at} {how.name}")
        new.rename(self.folder / "spoil")

    def reached(self) -> str:
        """The spoilt call's name; "" until it was made."""
        with suppress(FileNotFoundError):
            (self.folder / "reached").stat()
            return (self.folder / "name").read_text()
        return ""

    def heal(self, how: How) -> str:
        """Nothing fails any more; a killed driver is followed by a new one.

        Returns the spoilt call's name, "" if it was not made.
        """
        # First: a thread of the driver's own could make the call after we have looked.
        (self.folder / "spoil").unlink(missing_ok=True)
        reached = self.reached()
        if reached and how is How.KILLED:
            assert self.driver is not None
            assert self.driver.wait(20) == -signal.SIGKILL
            self.start_driver()
        return reached

    def state(self) -> dict[str, object]:
        """What can leak."""
        # What is kept about a host itself comes when it is needed, and stays.
        keys = [key for key in self.stored_keys()
                if not key.endswith("/fence") and "/v1/known/" not in key]
        state = self.folder / "state"
        return {"links": self.links(), "etcd": keys, "joins": FiledJoins(state).all(),
                "to tear down": FiledTeardowns(state).unfinished(), **self.entries()}

    def entries(self) -> dict[str, object]:
        """How many entries each map has, and which sandboxes have links."""
        pins = self.pins / "slim" / "v1"
        counted: dict[str, object] = {}
        for name in MAPS:
            with opened(next(pins.rglob(name))) as fd:
                counted[name] = count_entries(fd)
        counted["pins"] = sorted(pin.name for pin in pins.rglob("netns-*"))
        return counted


@dataclass
class Act:
    """One of dockerd's calls; `done`: everything that follows from it has happened."""

    name: str
    call: Callable[[], object]
    done: Callable[[], bool]


@dataclass
class Life:
    """A container's life on a host, as dockerd lives it."""

    host: SpoiltHost
    sandbox: Netns
    moved: bool = field(default=False)

    def acts(self) -> list[Act]:
        call, host = self.host.dockerd.ok, self.host

        def create() -> None:
            call("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=EP, Options={},
                 Interface={"Address": f"{ADDRESS}/16", "AddressIPv6": "", "MacAddress": ""})

        return [
            Act("RequestAddress", lambda: call("IpamDriver.RequestAddress", PoolID=POOL_ID,
                                               Address=ADDRESS, Options=None), lambda: True),
            Act("CreateEndpoint", create, lambda: host.entries()["directory"] == 1),
            Act("Join", lambda: call("NetworkDriver.Join", NetworkID=NET, EndpointID=EP,
                                     SandboxKey=self.sandbox.path, Options={}),
                lambda: host.entries()["veths"] == 1),
            Act("interface comes up", self.come_up,
                lambda: host.entries()["sandboxes"] == 1 and self.rules()),
            Act("Leave", self.leave, lambda: not self.rules()),
            Act("DeleteEndpoint", lambda: call(
                "NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP),
                lambda: not host.links() and host.entries()["directory"] == 0),
            Act("ReleaseAddress", lambda: call(
                "IpamDriver.ReleaseAddress", PoolID=POOL_ID, Address=ADDRESS),
                lambda: True)]

    def rules(self) -> bool:
        return f"from {UNDERLAY}" in self.sandbox.ip("rule show")

    def come_up(self) -> None:
        name = "sc" + EP[:11]
        if not self.moved:
            self.host.netns.ip(f"link set {name} netns {self.sandbox.name}")
            self.sandbox.ip(f"link set {name} name eth0")
            self.sandbox.ip(f"addr add {ADDRESS}/16 dev eth0")
            self.sandbox.ip("link set eth0 up")
            self.moved = True

    def leave(self) -> None:
        self.host.dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
        if self.moved:
            name = "sc" + EP[:11]
            with suppress(RuntimeError):  # the driver was faster: dockerd logs it and goes on
                self.sandbox.ip("link set eth0 down")
                self.sandbox.ip(f"link set eth0 name {name}")
                self.sandbox.ip(f"link set {name} netns {self.host.netns.name}")
            self.moved = False


@dataclass
class NetworkLife:
    """A network's, and an address that a container has there.

    What dockerd knows of it, its API says; it asks for no removal twice.
    """

    host: SpoiltHost
    known: set[str] = field(default_factory=set)
    given: str = ""  # address with prefix length

    def acts(self) -> list[Act]:
        return [self.act("RequestPool", "IpamDriver.RequestPool", AddressSpace="slim-local",
                         Pool=POOL, SubPool="", Options=None, V6=False),
                self.act("CreateNetwork", "NetworkDriver.CreateNetwork", NetworkID=NET, Options={},
                         IPv4Data=[{"AddressSpace": "slim-local", "Pool": POOL}], IPv6Data=[]),
                self.act("RequestAddress", "IpamDriver.RequestAddress", PoolID=POOL_ID,
                         Address="", Options=None),
                self.act("ReleaseAddress", "IpamDriver.ReleaseAddress", PoolID=POOL_ID),
                self.act("ReleasePool", "IpamDriver.ReleasePool", PoolID=POOL_ID),
                self.act("DeleteNetwork", "NetworkDriver.DeleteNetwork", NetworkID=NET)]

    def act(self, name: str, method: str, **body: object) -> Act:
        inverse = name.replace("Release", "Request").replace("Delete", "Create")
        removes = inverse != name
        more = {"Address": self.given.partition("/")[0]} if name == "ReleaseAddress" else {}

        def call() -> None:
            self.known.discard(inverse)
            try:
                answer = self.host.dockerd.ok(method, **{**body, **more})
            except (AssertionError, OSError, HTTPException):
                if not removes:
                    raise
                return
            self.given = answer.get("Address", self.given)
            if not removes:
                self.known.add(name)

        return Act(name, call, lambda: True)

    def docker(self, url: str) -> tuple[int, object]:
        """Docker's API."""
        network = {"Id": NET if "CreateNetwork" in self.known else "another", "IPAM": {
            "Driver": "slim",
            "Config": [{"Subnet": POOL}] if "RequestPool" in self.known else []},
            "Containers": {"c": {"EndpointID": "e", "IPv4Address": self.given}}
            if "RequestAddress" in self.known else {}}
        if url.endswith("/version"):
            return 200, {"ApiVersion": "1.41"}
        return 200, network if "/networks/" in url else [network]


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[SpoiltHost]:
    with one_host(make_netns, tmp_path, SpoiltHost) as made:
        made.start_driver()
        made.start_etcd()
        made.dockerd.ok("IpamDriver.RequestPool", AddressSpace="slim-local", Pool=POOL,
                        SubPool="", Options=None, V6=False)
        made.dockerd.ok("NetworkDriver.CreateNetwork", NetworkID=NET, Options={}, IPv4Data=[
            {"AddressSpace": "slim-local", "Pool": POOL}], IPv6Data=[])
        yield made


# A new driver for each step takes its time.  Killed after a step is killed before the next one:
# that is tried anyway.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [How.FAILS, How.DONE, How.KILLED])
@pytest.mark.parametrize("name", [
    "CreateEndpoint", "Join", "interface comes up", "Leave", "DeleteEndpoint"])
def test_every_step(name: str, how: How, host: SpoiltHost,
                    make_netns: Callable[[str], Netns]) -> None:
    life = Life(host, make_netns("box"))
    before = host.state()
    for at in range(1, STEPS_MAX):
        reached = ""
        for act in life.acts():
            if act.name == name:
                reached = perform(host, act, at, how)
            else:
                act.call()
                wait_until(act.done, 20, f"{act.name} is done; {at}: {reached}\n{host.log()}")
        with suppress(AssertionError):
            wait_until(lambda: host.state() == before, 15, "all as before")
        assert host.state() == before, f"{at}: {reached}"
        if not reached:
            assert at > 1
            return
    raise AssertionError("the call never ends")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [How.FAILS, How.DONE, How.KILLED])
@pytest.mark.parametrize("name", ["RequestPool", "CreateNetwork", "RequestAddress",
                                  "ReleaseAddress", "ReleasePool", "DeleteNetwork"])
def test_every_step_of_a_network(name: str, how: How, make_netns: Callable[[str], Netns],
                                 tmp_path: Path) -> None:
    with one_host(make_netns, tmp_path, SpoiltHost) as host:
        host.docker_socket = str(tmp_path / "docker.sock")
        life = NetworkLife(host)
        with serving(host.docker_socket, life.docker):
            host.start_driver()
            host.start_etcd()
            before = host.state()
            for at in range(1, STEPS_MAX):
                reached = ""
                for number in range(len(life.acts())):
                    act = life.acts()[number]  # what is released is known only by now
                    if act.name == name:
                        reached = perform(host, act, at, how)
                    else:
                        act.call()
                with suppress(AssertionError):
                    wait_until(lambda: host.state() == before, 20, "all as before")
                assert host.state() == before, f"{at}: {reached}\n{host.log()}"
                if not reached:
                    assert at > 1
                    return
    raise AssertionError("the call never ends")


def perform(host: SpoiltHost, act: Act, at: int, how: How) -> str:
    """Make the call with one step spoilt, and again if it failed; return the step's name."""
    host.spoil(at, how)
    failed = False
    try:
        act.call()
    except (AssertionError, OSError, HTTPException):
        failed = True
    wait_until(lambda: host.reached() or act.done(), 20, f"{act.name}, or its step {at}")
    reached = host.heal(how)
    if failed:
        act.call()
    wait_until(act.done, 20, f"{act.name} is done after all; {at}: {reached}\n{host.log()}")
    return reached
