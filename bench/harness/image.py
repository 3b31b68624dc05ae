"""Builds the benchmark's container image: Debian's programs, ours, and Python for the agent."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.harness.errors import BenchError
from tests.lab.rig import images

TAG = "slim-bench"
PROGRAMS_HERE = Path(__file__).parents[1] / "programs"
COMPILED = ("netbench", "manyconns", "netstream")  # for all groups
BIND_FIRST = "/programs/bindfirst.so"
# Programs by workload group; each group has its server and its client.
PROGRAMS = {"nginx": ("nginx", "wrk"), "memcached": ("memcached", "memcaslap"),
            "redis": ("redis-server", "redis-benchmark"), "nats": ("nats-server",)}


def build(groups: Iterable[str]) -> bytes:
    """Return a tar for `docker import` with what these groups need.  Error: BenchError."""
    if shutil.which("gcc") is None:
        raise BenchError("gcc is missing: apt-get install gcc libc6-dev (`make bench` does)")
    image = images.Image()
    image.busybox()
    image.program(images.PYTHON)
    image.link("usr/bin/python3", images.PYTHON)
    image.tree("/usr/lib/python3.11")
    for program in ("agent.py", "nats_bench.py"):
        image.file(str(PROGRAMS_HERE / program), f"programs/{program}")
    with tempfile.TemporaryDirectory() as folder:
        for name in COMPILED:
            image.program(compiled(name, folder), f"usr/local/bin/{name}")
        _compile(PROGRAMS_HERE / "bindfirst.c", f"{folder}/bindfirst.so", "-shared", "-fPIC")
        image.program(f"{folder}/bindfirst.so", BIND_FIRST)
    try:
        for group in groups:
            for program in PROGRAMS.get(group, ()):
                image.command(program)
            if group == "postgresql":
                images.postgresql(image)
            if group == "nginx":
                image.text("etc/services", "http 80/tcp\n")  # wrk asks for the port by name
                for part in ("log", "lib"):  # nginx opens the first, makes folders in the other
                    image.text(f"var/{part}/nginx/.keep", "")
    except FileNotFoundError as error:
        raise BenchError(f"{error}; `make bench` installs what all workloads need, and --only "
                         "leaves workloads out") from None
    return image.packed()


def compiled(name: str, folder: str, *options: str) -> str:
    """Compile one of the programs here into `folder`; return its path.  Error: BenchError."""
    _compile(PROGRAMS_HERE / f"{name}.c", f"{folder}/{name}", *options)
    return f"{folder}/{name}"


def _compile(source: Path, target: str, *options: str) -> None:
    done = subprocess.run(["gcc", "-O2", *options, "-o", target, str(source)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{source.name} does not compile: {done.stderr[-1500:]}")
