"""Spoils each call of a network's life at every step, with real driver and etcd.

test_driver.py does the same with a container's life.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException

import pytest

from tests.netns.spoilt.host import Act, SpoiltHost, SpoiltHosts, perform
from tests.support.faults.steps import How, each_step
from tests.support.world.netns import require_root
from tests.support.world.served import NET, POOL

POOL_ID = f"slim-local/{POOL}"


@dataclass
class NetworkLife:
    """The life of a network, and of a container's address on it.

    Docker's API shows what dockerd knows of it; dockerd asks for no removal twice.
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
        """Answer in place of Docker's API."""
        network = {"Id": NET if "CreateNetwork" in self.known else "another", "IPAM": {
            "Driver": "slim",
            "Config": [{"Subnet": POOL}] if "RequestPool" in self.known else []},
            "Containers": {"c": {"EndpointID": "e", "IPv4Address": self.given}}
            if "RequestAddress" in self.known else {}}
        if url.endswith("/version"):
            return 200, {"ApiVersion": "1.41"}
        return 200, network if "/networks/" in url else [network]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpoiltHosts]:
    require_root()
    with ExitStack() as stack:
        yield SpoiltHosts(stack, lambda: tmp_path_factory.mktemp("host"), lambda host: None,
                          docker=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [How.FAILS, How.DONE, How.KILLED])
@pytest.mark.parametrize("name", ["RequestPool", "CreateNetwork", "RequestAddress",
                                  "ReleaseAddress", "ReleasePool", "DeleteNetwork"])
def test_every_step_of_a_network(name: str, how: How, hosts: SpoiltHosts,
                                 kill_stride: int) -> None:
    with hosts.lent() as host:
        life = NetworkLife(host)
        hosts.answer = life.docker
        before = host.state()

        def live(at: int) -> str:
            reached = ""
            for number in range(len(life.acts())):
                act = life.acts()[number]  # only now is it known what to release
                if act.name == name:
                    reached = perform(host, act, at, how)
                else:
                    act.call()
            host.assert_as_before(before, f"{at}: {reached}")
            return reached

        each_step(live, lambda: len(host.calls()), kill_stride if how is How.KILLED else 1)
