"""Measures what the host path costs and where: a packet, a connection, each eBPF program.

    .venv/bin/python -m bench.studies.cost [--rounds 7] [--seconds 1] [--one-host] [--json FILE]

Two hosts are namespaces, without Docker; client and server have a processor each.  It measures
three ways in turn: between the hosts themselves, between containers of slim, and between
namespaces behind a plain pair of interfaces that their hosts route for (no eBPF, no network
address translation).  With --one-host these are loopback, two containers of one host, and two
namespaces with a plain pair of interfaces between them.  Hosts and containers have the rules that
Docker makes in each (NAT for published ports, for its name server): the kernel tracks what is not
exempted from them, which costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

from bench.harness import bounds
from bench.harness.image import compiled
from bench.harness.measure import PORT, Results, Sample, interleaved, netbench_sample, ratio
from driver.link.pairs.veth import Veths, probe_kind
from driver.link.sandbox import untracked
from tests.support.fakes import dockerd
from tests.support.world import netns
from tests.support.world.machines import Cluster, Machine

HOST, SLIM, ROUTED, PAIR = "host", "slim", "routed pair", "plain pair"
SLIM_VETH = "slim, veth"  # also measured where slim uses netkit
KINDS = {"round trips": "rr", "connections": "crr+"}
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")


@dataclass(frozen=True)
class Way:
    """Prefixes of a client's and a server's command, and the address to call."""

    client: Sequence[str]
    server: Sequence[str]
    address: str


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(prog="bench.studies.cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=bounds.rounds, default=7)
    parser.add_argument("--seconds", type=bounds.seconds, default=1.0)
    parser.add_argument("--one-host", action="store_true", help="containers of one host")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench.studies.cost: needs root", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        netbench = compiled("netbench", stack.enter_context(tempfile.TemporaryDirectory()))
        machines, ways = made_ways(stack, one_host=given.one_host)
        if probe_kind("auto") != "veth":
            for machine in machines:
                machine.links = Veths("veth")
            ways[SLIM_VETH] = between_containers(machines[0], machines[-1], "10.92.0")
        for way in ways.values():
            stack.enter_context(serving(way, netbench))
        found = compare(ways, netbench, given.rounds, given.seconds)
        programs = {name: profile(machines, ways[SLIM], netbench, kind, given.seconds)
                    for name, kind in KINDS.items()}
    print("\n".join([*table(found), "", *program_table(programs)]))
    if given.json:
        given.json.write_text(json.dumps({
            "ratio_to_host": {what: {way: ratio(rates(samples), rates(by_way[HOST]))
                                     for way, samples in by_way.items()}
                              for what, by_way in found.items()},
            "programs": programs}, indent=1))
    return 0


def made_ways(stack: ExitStack, *, one_host: bool) -> tuple[list[Machine], dict[str, Way]]:
    """Make hosts, and all ways between two programs on them, or on one of them."""
    cluster = Cluster(stack)
    machines = [cluster.add_machine() for _ in range(1 if one_host else 2)]
    for machine in machines:
        dockerd.start_on(machine.netns)
    client, server = machines[0], machines[-1]
    if one_host:
        return machines, {HOST: Way(client.netns.command(), client.netns.command(), "127.0.0.1"),
                          SLIM: between_containers(client, client),
                          PAIR: between_namespaces(stack)}
    return machines, {HOST: between_hosts(client, server), SLIM: between_containers(client, server),
                      ROUTED: between_routed(stack, client, server)}


def between_hosts(client: Machine, server: Machine) -> Way:
    """Return the way between the hosts: no eBPF, no interfaces but their own."""
    return Way(client.netns.command(), server.netns.command(), str(server.underlay))


def between_containers(client: Machine, server: Machine, subnet: str = "10.90.0") -> Way:
    """Return the way from a container to another.  subnet: three numbers of its addresses."""
    caller, called = client.container(f"{subnet}.2/16"), server.container(f"{subnet}.3/16")
    for machine, inside in ((client, caller), (server, called)):  # as a look at them does
        inside.netns.call(lambda machine=machine, inside=inside: untracked.follow(  # type: ignore[misc]
            untracked.read(), machine.underlay, [IPv4Address(inside.address)]))
    return Way(caller.command(), called.command(), called.address)


def between_routed(stack: ExitStack, client: Machine, server: Machine) -> Way:
    """Return the way that shows what Linux itself takes for a pair of interfaces on each side."""
    inner = {}
    for number, (machine, peer) in enumerate(((client, server), (server, client)), start=1):
        inside = stack.enter_context(netns.made("r"))
        netns.join(machine.netns, "routed", inside, "eth0")
        machine.netns.ip(f"addr add 10.91.{number}.1/24 dev routed")
        inside.ip(f"addr add 10.91.{number}.2/24 dev eth0")
        inside.ip(f"route add default via 10.91.{number}.1")
        machine.netns.sysctl("ipv4.ip_forward", 1)
        machine.netns.ip(f"route add 10.91.{3 - number}.0/24 via {peer.underlay}")
        inner[number] = inside
    return Way(inner[1].command(), inner[2].command(), "10.91.2.2")


def between_namespaces(stack: ExitStack) -> Way:
    """Return the least that any network between namespaces of one host takes."""
    caller, called = (stack.enter_context(netns.made("r")) for _ in range(2))
    netns.join(caller, "eth0", called, "eth0")
    for number, inside in enumerate((caller, called), start=1):
        inside.ip(f"addr add 10.94.0.{number}/24 dev eth0")
    return Way(caller.command(), called.command(), "10.94.0.2")


@contextmanager
def serving(way: Way, netbench: str, processor: int = -1) -> Iterator[None]:
    """Run the way's server, on one of the processors; -1: the last."""
    with subprocess.Popen([*way.server, *pinned(processor), netbench, "serve", str(PORT)],
                          stdout=subprocess.DEVNULL) as process:
        try:
            wait_for_server(way)
            yield
        finally:
            process.kill()


def wait_for_server(way: Way) -> None:
    """Wait until the server accepts a connection."""
    code = ("import socket, sys, time\n"
            "for _ in range(200):\n"
            "    try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1); break\n"
            "    except OSError: time.sleep(0.05)\n"
            "else: sys.exit('the server does not answer')")
    subprocess.run([*way.client, sys.executable, "-c", code, way.address, str(PORT)], check=True)


def pinned(which: int) -> list[str]:
    """Return the prefix that pins a command to this process's first or last (-1) processor."""
    return ["taskset", "--cpu-list", str(sorted(os.sched_getaffinity(0))[which])]


def run(way: Way, netbench: str, kind: str, seconds: float) -> Sample:
    """Run once: transactions per second, and microseconds of CPU for each."""
    def client(port: int) -> str:
        return subprocess.run(
            [*way.client, *pinned(0), netbench, kind, way.address, str(port), str(seconds)],
            check=True, capture_output=True, text=True, timeout=seconds + 60).stdout

    return netbench_sample(client, kind, PORT)


def compare(ways: Mapping[str, Way], netbench: str, rounds: int, seconds: float) -> Results:
    """Run all kinds on all ways in turn."""
    return interleaved(KINDS, ways, rounds, lambda _, what, name: run(
        ways[name], netbench, KINDS[what], seconds))


def profile(machines: Sequence[Machine], way: Way, netbench: str, kind: str, seconds: float
            ) -> dict[str, tuple[float, float]]:
    """Return how often each program runs per transaction, and its nanoseconds per run.

    Both hosts count together.  The counting itself (bpf_stats_enabled) costs some 20 ns a run.
    """
    before_setting = STATS.read_text()
    STATS.write_text("1")
    try:
        before = [program_times(machine) for machine in machines]
        rate = run(way, netbench, kind, seconds)
        after = [program_times(machine) for machine in machines]
    finally:
        STATS.write_text(before_setting)
    done = rate.value * seconds
    found = {}
    for name in before[0]:
        runs = sum(late[name][0] - early[name][0]
                   for early, late in zip(before, after, strict=True))
        ns = sum(late[name][1] - early[name][1]
                 for early, late in zip(before, after, strict=True))
        if runs > done / 10:
            found[name] = (runs / done, ns / runs)
    return found


def program_times(machine: Machine) -> dict[str, tuple[int, int]]:
    """Return each program's runs and nanoseconds so far."""
    found = {}
    for name, fd in machine.loaded.programs.items():
        lines = dict(line.split(":", 1) for line in
                     Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        found[name] = int(lines["run_cnt"]), int(lines["run_time_ns"])
    return found


def rates(samples: Sequence[Sample]) -> list[float]:
    """Return the transactions per second."""
    return [sample.value for sample in samples]


def table(found: Mapping[str, Mapping[str, Sequence[Sample]]]) -> list[str]:
    """Make a table of medians, ratios of runs of the same round, and CPU beyond the host's."""
    rows = ["| | 1/s | of the host's | CPU, µs | beyond the host's |", "|---|---|---|---|---|"]
    for what, ways in found.items():
        host_cpu = [sample.cpu_us_per_unit for sample in ways[HOST]]
        for way, samples in ways.items():
            cpu = [sample.cpu_us_per_unit for sample in samples]
            more = median(a - b for a, b in zip(cpu, host_cpu, strict=True))
            rows.append(f"| {what}, {way} | {median(rates(samples)):,.0f} | "
                        f"{ratio(rates(samples), rates(ways[HOST])):.3f} | {median(cpu):.1f} | "
                        f"{more:+.1f} |")
    return rows


def program_table(programs: Mapping[str, Mapping[str, tuple[float, float]]]) -> list[str]:
    """Make a table of which program runs how often, and for how long."""
    rows = ["| program | runs | ns a run | ns in all |", "|---|---|---|---|"]
    for what, own in programs.items():
        rows += [f"| {what}: {name} | {runs:.1f} | {ns:.0f} | {runs * ns:.0f} |"
                 for name, (runs, ns) in own.items()]
    return rows


if __name__ == "__main__":
    sys.exit(main())
