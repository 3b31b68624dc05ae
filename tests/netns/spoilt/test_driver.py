"""Spoils each call of a container's life at every step, with real driver, etcd, links and maps.

tests/unit/whole/test_every_step.py does it with fakes and in every combination; these tests show
that the real parts behave as the fakes.  The test plays dockerd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from driver.link.netlink.names import SANDBOX_TABLE
from tests.netns.spoilt.host import Act, SpoiltHost, SpoiltHosts, perform
from tests.support.faults.steps import How, each_step
from tests.support.run.wait import wait_until
from tests.support.world import packet_filter
from tests.support.world.netns import Netns, require_root
from tests.support.world.served import EP, NET, POOL, UNDERLAY

POOL_ID = f"slim-local/{POOL}"
ADDRESS = "10.50.0.9"


@dataclass
class Life:
    """A container's life on a host, with dockerd's part in it."""

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
                lambda: host.entries()["sandboxes"] == 1 and all(self.inside())),
            Act("Leave", self.leave, lambda: not any(self.inside())),
            Act("DeleteEndpoint", lambda: call(
                "NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP),
                lambda: not host.links() and host.entries()["directory"] == 0),
            Act("ReleaseAddress", lambda: call(
                "IpamDriver.ReleaseAddress", PoolID=POOL_ID, Address=ADDRESS),
                lambda: True)]

    def inside(self) -> tuple[bool, bool]:
        """Whether the sandbox has the driver's routing rules, and its packet filter table."""
        return (f"from {UNDERLAY}" in self.sandbox.ip("rule show"),
                SANDBOX_TABLE in packet_filter.rules(self.sandbox))

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
            with suppress(RuntimeError):  # the driver was first: dockerd logs that and goes on
                self.sandbox.ip("link set eth0 down")
                self.sandbox.ip(f"link set eth0 name {name}")
                self.sandbox.ip(f"link set {name} netns {self.host.netns.name}")
            self.moved = False


def create_network(host: SpoiltHost) -> None:
    host.dockerd.ok("IpamDriver.RequestPool", AddressSpace="slim-local", Pool=POOL, SubPool="",
                    Options=None, V6=False)
    host.dockerd.ok("NetworkDriver.CreateNetwork", NetworkID=NET, Options={}, IPv4Data=[
        {"AddressSpace": "slim-local", "Pool": POOL}], IPv6Data=[])


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpoiltHosts]:
    require_root()
    with ExitStack() as stack:
        yield SpoiltHosts(stack, lambda: tmp_path_factory.mktemp("host"), create_network)


# A new driver for each step takes long: see `stride`.  Killing after a step is killing before the
# next one, which is tried anyway.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [How.FAILS, How.DONE, How.KILLED])
@pytest.mark.parametrize("name", [
    "CreateEndpoint", "Join", "interface comes up", "Leave", "DeleteEndpoint"])
def test_every_step(name: str, how: How, hosts: SpoiltHosts, kill_stride: int,
                    make_sandbox: Callable[[str], Netns]) -> None:
    with hosts.lent() as host:
        life = Life(host, make_sandbox("box"))
        before = host.state()

        def live(at: int) -> str:
            reached = ""
            for act in life.acts():
                if act.name == name:
                    reached = perform(host, act, at, how)
                else:
                    act.call()
                    wait_until(act.done, 30, f"{act.name} is done; {at}: {reached}\n{host.log()}")
            host.assert_as_before(before, f"{at}: {reached}")
            return reached

        each_step(live, lambda: len(host.calls()), kill_stride if how is How.KILLED else 1)
