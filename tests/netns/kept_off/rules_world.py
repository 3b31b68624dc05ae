"""Runs two hosts with real drivers, for containers that need virtual addresses on packets.

It connects containers, and checks the path by the counters; the tests make the rules.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.netns import talk
from tests.netns.cluster.etcd_world import LONG_S, Box, World
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns, require_root
from tests.support.world.served import Host

ECHO = 'serve(listen("0.0.0.0", 80))'
CALL = """
    c = connected(sys.argv[1], int(sys.argv[2]), timeout_s=20)
    print(asked(c).decode())
"""
REFUSED = """
    print(error_of(lambda: connected(sys.argv[1], int(sys.argv[2]), timeout_s=float(sys.argv[3]))))
"""
# The rules that dockerd makes in each container's namespace, for its DNS.
DOCKERS = (
    ("-N", "DOCKER_OUTPUT"), ("-N", "DOCKER_POSTROUTING"),
    ("-I", "OUTPUT", "-d", "127.0.0.11", "-j", "DOCKER_OUTPUT"),
    ("-I", "POSTROUTING", "-d", "127.0.0.11", "-j", "DOCKER_POSTROUTING"),
    ("-A", "DOCKER_OUTPUT", "-d", "127.0.0.11", "-p", "udp", "--dport", "53", "-j", "DNAT",
     "--to-destination", "127.0.0.11:33333"),
    ("-A", "DOCKER_POSTROUTING", "-s", "127.0.0.11", "-p", "udp", "--sport", "33333", "-j", "SNAT",
     "--to-source", ":53"))


def run_on(host: Host, namespace: Netns, *command: str) -> None:
    """Run a program inside, in the host's cgroup, by which slim notices iptables-legacy."""
    join = f'echo $$ > {host.cgroup}/cgroup.procs && exec "$@"'
    done = subprocess.run(["sh", "-c", join, "sh", *namespace.command(*command)], check=False,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def dockers_rules(host: Host, namespace: Netns, tool: str = "iptables-nft") -> None:
    for words in DOCKERS:
        run_on(host, namespace, tool, "-t", "nat", *words)


class Hosts:
    """The world, with calls between its containers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.here, self.there = world.hosts
        self.near, self.far = world.boxes  # each with a server on port 80

    @contextmanager
    def box(self, host: Host, prepare: Callable[[Host, Netns], object] = dockers_rules, *,
            serve: str = ECHO, **chosen: str) -> Iterator[Box]:
        """A container with a server, known to both hosts, during the block."""
        box = self.world.attach(host, lambda inside: prepare(host, inside), **chosen)
        server = self.world.program(box, serve) if serve else None
        try:
            if server:
                assert server.line() == "ready"
            wait_until(self.world.converged, LONG_S, "both hosts know it")
            yield box
        finally:
            if server:
                server.end()
            self.world.detach(box)

    def call(self, client: Box, server: Box, port: int = 80) -> str:
        """Connect, and return the answer."""
        return talk.run(self.world.container(client), CALL, server.ip, port)

    def error(self, client: Box, server: Box, timeout_s: float = 1.5) -> str:
        """Return connect()'s error; "timeout": no answer by then."""
        return talk.run(self.world.container(client), REFUSED, server.ip, 80, timeout_s)

    @contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Yield a dict of how much both hosts' counters grew, once the block ends."""
        before = [host.counters() for host in self.world.hosts]
        grown: dict[str, int] = {}
        yield grown
        for host, old in zip(self.world.hosts, before, strict=True):
            for name, value in host.counters().items():
                grown[name] = grown.get(name, 0) + value - old[name]

    def assert_host_path(self, client: Box, server: Box) -> None:
        with self.counted() as grown:
            assert self.call(client, server) == "hello"
        assert (grown["connected"], grown["accepted"]) == (1, 1), grown

    def assert_overlay(self, client: Box, server: Box, because: str) -> None:
        """Assert that a call takes the overlay path.  `because`: the counter of the reason."""
        with self.counted() as grown:
            assert self.call(client, server) == "hello"
        assert grown["connected"] == grown["accepted"] == 0, grown
        assert min(grown[because], grown["overlay_received"]) > 0, grown

    def wait_off(self, box: Box, why: str) -> None:
        """Wait until its driver and both hosts' directories keep it off the host path."""
        def off() -> bool:
            status = box.host.status()["host path"]
            return f"{why} 1" in status and self.world.converged() and self.port(box) == 0

        wait_until(off, LONG_S, f"{why}, and peers to know it")

    def wait_on(self, box: Box) -> None:
        def on() -> bool:
            status = box.host.status()["host path"]
            return status.startswith("all ") and self.world.converged() and self.port(box) > 0

        wait_until(on, LONG_S, "the host path again, and peers to know it")

    def port(self, box: Box) -> int:
        """Return the endpoint port that peers see."""
        return self.world.offered_port(box)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require_root()
    with ExitStack() as stack:
        world = World(stack, tmp_path_factory.mktemp("rules"))
        yield Hosts(world)
        world.close()
