"""Provides the engines of a benchmark: two hosts of the lab on this machine, or Docker contexts."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.harness.engine import Engine
from bench.harness.errors import BenchError
from bench.harness.options import Options
from tests.lab.rig.hosts import Host, Lab, lab_of_this_process

MTU = {"mtu-9000": 9000}  # of the lab's cables, by fabric; 1,500 on the others
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
AVAILABLE = ALLOWED.with_name("tcp_available_congestion_control")


@contextlib.contextmanager
def lab(fabric: str, options: Options) -> Iterator[tuple[list[Engine], list[str]]]:
    """Two hosts with the driver, in a swarm, during the block: engines and underlay addresses."""
    try:
        with _allowed(options.congestion), lab_of_this_process("slimbench") as made:
            yield _bring_up(made, fabric, options)
    except RuntimeError as error:  # programs or rights are missing
        raise BenchError(f"{error}; on real hosts: bench/run --contexts A,B") from None


@contextlib.contextmanager
def _allowed(congestion: str) -> Iterator[None]:
    """Let network namespaces choose this congestion control during the block."""
    if os.geteuid() != 0:  # the lab says what it needs
        yield
        return
    if congestion not in AVAILABLE.read_text().split():
        raise BenchError(f"--congestion {congestion}: this kernel has "
                         f"{', '.join(AVAILABLE.read_text().split())}")
    before = ALLOWED.read_text()
    if congestion in before.split():
        yield
        return
    ALLOWED.write_text(f"{before.strip()} {congestion}")
    try:
        yield
    finally:
        ALLOWED.write_text(before)


def _bring_up(made: Lab, fabric: str, options: Options) -> tuple[list[Engine], list[str]]:
    made.env["LAB_MTU"] = str(MTU.get(fabric, 1500))
    hosts = made.up(2)
    made.start_etcd()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Host.start_driver, hosts))
    for host in hosts:
        host.exec("sysctl", "-qw", f"net.ipv4.tcp_congestion_control={options.congestion}")
        if fabric == "no-offload":
            # The sender's kernel cuts large segments itself: at most 1,500 bytes are on the cable.
            host.exec("ethtool", "-K", "eth0", "tso", "off", "gso", "off",
                      "tx-udp_tnl-segmentation", "off")
    first, second = hosts
    first.docker("swarm", "init", "--advertise-addr", str(first.address))
    token = first.docker("swarm", "join-token", "-q", "worker")
    second.docker("swarm", "join", "--advertise-addr", str(second.address), "--token", token,
                  f"{first.address}:2377")
    engines = [Engine(host.name, (*_client(), "-H", f"unix://{host.folder}/docker.sock"))
               for host in hosts]
    return engines, [str(host.address) for host in hosts]


def contexts(options: Options) -> tuple[list[Engine], list[str]]:
    """Return the engines of the named contexts; each has answered.  Error: BenchError."""
    engines = [Engine(name, (*_client(), "--context", name)) for name in options.contexts]
    architectures = set()
    for engine in engines:
        architectures.add(engine.docker("version", "-f", "{{.Server.Os}}/{{.Server.Arch}}"))
    if architectures != {(own := _own_architecture())}:
        raise BenchError(f"the hosts are {', '.join(sorted(architectures))}, this machine {own}: "
                         "the programs that run in their containers are those of this machine")
    return engines, list(options.addresses)


def _own_architecture() -> str:
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return f"linux/{names.get(platform.machine(), platform.machine())}"


def _client() -> tuple[str, ...]:
    found = shutil.which("docker")
    if found is None:
        raise BenchError("the docker client is missing")
    return (found,)
