"""Brings up two hosts, with the networks and containers between which names are asked for."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.harness.image import compiled
from tests.lab.rig import dockers, images
from tests.lab.rig.hosts import Host, Lab, lab_of_this_process
from tests.support.run.wait import wait_until

IMAGE = "slim-names"
SERVER = "127.0.0.11"
# Networks: slim's, slim's with Docker's names, Docker's bridge.
SLIM, PLAIN, BRIDGE = "app", "plain", "own"
NETWORKS: dict[str, tuple[str, ...]] = {
    SLIM: ("-d", "slim", "--ipam-driver", "slim", "--subnet", "10.32.0.0/16"),
    PLAIN: ("-d", "slim", "--ipam-driver", "slim", "--subnet", "10.33.0.0/16",
            "-o", "slim.names=off"),
    BRIDGE: ("-d", "bridge",)}
ASKERS = 4  # containers in each network, on the first host
OUTSIDE = "www.example"  # what the name server outside knows
NOBODY = "nobody"
FAR = "far"
WAIT_S = 60.0
Progress = Callable[[str], None]  # is told what is being done


@dataclass(frozen=True)
class Way:
    """A container that asks, what for, and whom."""

    container: str
    name: str
    server: str = SERVER


@dataclass
class Pair:
    """The first host, on which containers ask, and the second."""

    lab: Lab
    here: Host
    there: Host

    def load(self, kind: str, way: Way, *numbers: float, timeout_s: float = 0) -> dict[str, Any]:
        """Run dnsload in the container; return what it found."""
        return dict(json.loads(self.here.docker(
            "exec", way.container, "dnsload", kind, way.server, way.name,
            *(f"{number:g}" for number in numbers), timeout_s=timeout_s or WAIT_S)))

    def finds(self, way: Way) -> bool:
        """Tell whether the name is found."""
        return bool(self.load("each", way, 1, 0)["found"])


def asker(network: str, number: int = 0) -> str:
    """Return the name of a container that asks."""
    return f"asks-{network}-{number}"


def near(network: str) -> str:
    """Return the name of the container on the first host that is asked for."""
    return f"near-{network}"


def say(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


@contextlib.contextmanager
def two_hosts(docker: str) -> Iterator[Pair]:
    """Two hosts with networks and containers during the block.

    docker: a release, as in tests/lab/rig/dockers.py.
    """
    with lab_of_this_process("slimnames", *dockers.trees(docker)) as lab:
        here, there = lab.up(2)
        with tempfile.TemporaryDirectory() as folder:
            image = images.Image()
            image.busybox()
            for name in ("dnsload", "dnswatch"):
                image.program(compiled(name, folder, "-static"), f"usr/local/bin/{name}")
        lab.load_image(IMAGE, image.packed())
        lab.start_etcd()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.start_driver, lab.hosts))
        pair = Pair(lab, here, there)
        with _outside(lab):
            _fill(pair)
            yield pair


@contextlib.contextmanager
def _outside(lab: Lab) -> Iterator[None]:
    """Run a name server between the hosts, where their resolv.conf says it is."""
    program = compiled("dnswatch", str(lab.state), "-static")
    log = lab.state / "outside.log"
    with log.open("wb") as out:
        process = subprocess.Popen(lab.fabric(program, "serve", str(lab.gateway)), stdout=out,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=lab.env)
    try:
        wait_until(lambda: "ready" in log.read_text(), WAIT_S, "the name server outside")
        yield
    finally:
        process.kill()
        process.wait()


def _fill(pair: Pair) -> None:
    for name, options in NETWORKS.items():
        pair.here.docker("network", "create", *options, name)
    pair.there.docker("network", "create", *NETWORKS[SLIM], SLIM)
    run(pair.there, FAR)
    run(pair.there, asker(SLIM))
    for network in NETWORKS:
        run(pair.here, near(network), network)
        for number in range(ASKERS):
            run(pair.here, asker(network, number), network)
    for network in NETWORKS:
        for number in range(ASKERS):
            for name in (near(network), OUTSIDE, *([FAR] if network == SLIM else ())):
                way = Way(asker(network, number), name)
                wait_until(lambda way=way: pair.finds(way), WAIT_S, f"{way}")  # type: ignore[misc]


def run(host: Host, name: str, network: str = SLIM) -> None:
    """Start a container that does nothing, and ends at once when it is told to."""
    host.docker("run", "-d", "--name", name, "--network", network, IMAGE, "dnswatch", "wait")


@dataclass(frozen=True)
class Usage:
    """What a process has."""

    memory_mb: float
    threads: int
    files: int


def usage(host: Host) -> Usage:
    """Return what the host's driver has now."""
    assert host.driver is not None
    text = host.exec("sh", "-c", 'p=$(cat $0); cat /proc/$p/status; ls /proc/$p/fd | wc -l',
                     host.driver._pid_file)
    return Usage(int(text.split("VmRSS:")[1].split()[0]) / 1024,
                 int(text.split("Threads:")[1].split()[0]), int(text.split()[-1]))
