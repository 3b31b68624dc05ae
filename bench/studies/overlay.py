"""Measures the overlay path with and without the VXLAN device: round trips, connections, streams.

    .venv/bin/python -m bench.studies.overlay [--rounds 7] [--fabric card] [--only TCP]

Hosts are namespaces, without Docker.  All of a pair's programs share one processor: a round trip
takes the sum of all work, without waking another processor.  Two pairs are measured in turn, on
hosts that leave every packet to the device and on others.  TCP clients bind their virtual address
first, which keeps them off the host path.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.harness import bounds, image
from bench.harness.measure import PORT, Results, Sample, busy_ticks, interleaved, ratio
from bench.studies.cost import pinned
from tests.support.world.machines import Cluster, Container

DEVICE, DIRECT = "VXLAN device", "tc"
_CUT = "tso off gso off tx-udp_tnl-segmentation off"
# no-offload: the sender's kernel cuts segments itself; card: and the receiver merges them (GRO), as
# network cards' drivers do and pairs of interfaces do not.
FABRICS = {"plain": "", "no-offload": _CUT, "card": f"{_CUT} gro on"}
STREAM_PORT, DATAGRAM_PORT = PORT + 20, PORT + 21
LEAST = 1e-6  # in place of nothing


@dataclass(frozen=True)
class Way:
    """Two containers on two hosts."""

    client: Container
    server: Container
    programs: Path

    def ask(self, *command: str) -> dict[str, float]:
        """Run a client to its end; return what it says in JSON."""
        words = self.client.command(*pinned(-1), "env", f"LD_PRELOAD={self.programs}/bindfirst",
                                    f"BIND_ADDRESS={self.client.address}", *command)
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=90)
        found: dict[str, float] = json.loads(done.stdout)
        return found


def timed(run: Callable[[], tuple[float, float]]) -> Sample:
    """Return what `run` says as (value, units of work), with the CPU time of each unit."""
    before = busy_ticks()
    value, units = run()
    ticks = max(busy_ticks() - before, 1)  # a short run may take less than one
    # On a busy machine all datagrams of a short run may be lost: a ratio to it is large, no error.
    return Sample(max(value, LEAST), ticks * 1e4 / max(units, LEAST))


def transactions(kind: str) -> Callable[[Way, float], Sample]:
    """Return a measurement of netbench `kind`, in transactions per second."""
    port = PORT + 2 if kind == "crr+" else PORT

    def run(way: Way, seconds: float) -> tuple[float, float]:
        done = way.ask(f"{way.programs}/netbench", kind, way.server.address, str(port),
                       str(seconds))
        return done["count"] / done["seconds"], done["count"]

    return lambda way, seconds: timed(lambda: run(way, seconds))


def streams(count: int, size: int) -> Callable[[Way, float], Sample]:
    """Return a measurement of TCP streams, in Gbit/s; CPU for each megabyte."""
    def run(way: Way, seconds: float) -> tuple[float, float]:
        done = way.ask(f"{way.programs}/netstream", "send", way.server.address, str(STREAM_PORT),
                       str(seconds), str(size), str(count))
        return done["bytes"] * 8e-9 / done["seconds"], done["bytes"] / 1e6

    return lambda way, seconds: timed(lambda: run(way, seconds))


def datagrams(way: Way, seconds: float) -> Sample:
    """Measure datagrams of 1,400 bytes, as many as arrive; in Gbit/s, CPU for each megabyte."""
    def run() -> tuple[float, float]:
        words = way.client.command(*pinned(-1), "iperf3", "-J", "-u", "-b", "0", "-l", "1400", "-c",
                            way.server.address, "-p", str(DATAGRAM_PORT), "-t",
                            str(max(1, round(seconds))))
        done = json.loads(subprocess.run(words, check=True, capture_output=True, text=True,
                                         timeout=90).stdout)["end"]["sum"]
        arrived = done["bytes"] * (1 - done["lost_percent"] / 100)
        return arrived * 8e-9 / done["seconds"], arrived / 1e6

    return timed(run)


WORKLOADS: Mapping[str, Callable[[Way, float], Sample]] = {
    "round trips, UDP, 1/s": transactions("urr"),
    "round trips, TCP, 1/s": transactions("rr"),
    "connections, 1/s": transactions("crr+"),
    "one stream, TCP, Gbit/s": streams(1, 65536),
    "8 streams, TCP, Gbit/s": streams(8, 65536),
    "messages of 64 bytes, TCP, Gbit/s": streams(1, 64),
    "messages of 1,024 bytes, TCP, Gbit/s": streams(1, 1024),
    "datagrams of 1,400 bytes, Gbit/s": datagrams,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="bench.studies.overlay", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=bounds.rounds, default=7)
    parser.add_argument("--seconds", type=bounds.seconds, default=1.0)
    parser.add_argument("--fabric", choices=tuple(FABRICS), default="plain")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    given = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench.studies.overlay: needs root", file=sys.stderr)
        return 2
    chosen = [name for name in WORKLOADS if given.only in name]
    with ExitStack() as stack:
        programs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("netbench", "netstream"):
            image.compiled(name, str(programs))
        image.compiled("bindfirst", str(programs), "-shared", "-fPIC")
        ways = {name: made(stack, programs, given.fabric, direct=name == DIRECT)
                for name in (DEVICE, DIRECT)}
        for way in ways.values():
            stack.enter_context(serving(way))
        found = interleaved(chosen, ways, given.rounds, lambda _, what, name: WORKLOADS[what](
            ways[name], given.seconds))
    print("\n".join(table(found)))
    return 0


def made(stack: ExitStack, programs: Path, fabric: str, *, direct: bool) -> Way:
    """Make two hosts with a container each."""
    cluster = Cluster(stack)
    client, server = (cluster.add_machine(direct=direct) for _ in range(2))
    for machine in (client, server) if FABRICS[fabric] else ():
        machine.netns.run("ethtool", "-K", "eth0", *FABRICS[fabric].split())
    return Way(client.container("10.90.0.2/16"), server.container("10.90.0.3/16"), programs)


@contextmanager
def serving(way: Way) -> Iterator[None]:
    """Run the servers."""
    commands = ([f"{way.programs}/netbench", "serve", str(PORT)],
                [f"{way.programs}/netstream", "serve", str(STREAM_PORT)],
                ["iperf3", "-s", "--forceflush", "-p", str(DATAGRAM_PORT)])
    with ExitStack() as stack:
        for words in commands:
            process = stack.enter_context(subprocess.Popen(
                way.server.command(*pinned(-1), *words), stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def table(found: Results) -> list[str]:
    """Make a table of medians, and of ratios of runs of the same round with their middle half."""
    rows = [f"| | {DEVICE} | {DIRECT} | ratio | CPU, µs | CPU, µs | ratio |",
            "|---|---|---|---|---|---|---|"]
    for what, ways in found.items():
        old, new = ways[DEVICE], ways[DIRECT]
        values = [[sample.value for sample in way] for way in (old, new)]
        cpu = [[sample.cpu_us_per_unit for sample in way] for way in (old, new)]
        ratios = sorted(b / a for a, b in zip(*values, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        rows.append(f"| {what} | {median(values[0]):,.4g} | {median(values[1]):,.4g} | "
                    f"{ratio(values[1], values[0]):.2f} ({low:.2f} to {high:.2f}) | "
                    f"{median(cpu[0]):.4g} | {median(cpu[1]):.4g} | {ratio(cpu[1], cpu[0]):.2f} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
