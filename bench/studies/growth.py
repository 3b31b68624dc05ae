"""Measures what packets and connections cost as endpoints, directory and open connections grow.

    .venv/bin/python -m bench.studies.growth

Two hosts are namespaces, without Docker, as in bench.studies.cost.  It writes
bench/results/growth.json and a chart beside it, and removes everything else it made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from bench.harness import bounds
from bench.harness.image import compiled
from bench.harness.measure import PORT, ratio
from bench.report import charts
from bench.studies.cost import (
    HOST,
    KINDS,
    SLIM,
    Way,
    between_containers,
    between_hosts,
    compare,
    profile,
    rates,
    serving,
)
from driver.link.pairs.veth import Veths
from driver.model import Endpoint, EndpointId, HostAddress, HostId, NetworkId, Vni
from tests.support.world.machines import MTU, Cluster, Machine

RESULTS = Path(__file__).parents[1] / "results" / "growth.json"
STEPS = {"endpoints on each host": (10, 100, 300, 1000),
         "entries of the directory": (100, 1_000, 10_000, 100_000),
         "open connections": (10, 1_000, 10_000, 50_000)}
HOSTS = 400  # hosts that the directory's entries belong to
FIRST_PORT = 61001  # of the endpoint ports; the measured containers have the one before it
PAIRS = 10  # containers on each host that hold connections
Grow = Callable[[int], None]  # takes the number to reach


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all series, print them, write them and their chart."""
    parser = argparse.ArgumentParser(prog="bench.studies.growth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=bounds.rounds, default=7)
    parser.add_argument("--seconds", type=bounds.seconds, default=0.7)
    parser.add_argument("--up-to", type=int, default=max(map(max, STEPS.values())),
                        help="leave out greater steps")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench.studies.growth: needs root", file=sys.stderr)
        return 2
    found = {what: series(what, [step for step in steps if step <= given.up_to], given.rounds,
                          given.seconds) for what, steps in STEPS.items()}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    charts.curves(found, given.out.with_suffix(".svg"))
    print("\n".join(table(found)))
    return 0


def series(what: str, steps: Sequence[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure at each step: ratios to the host, and nanoseconds of eBPF per transaction."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        netbench, manyconns = compiled("netbench", folder), compiled("manyconns", folder)
        cluster = Cluster(stack)
        machines = cluster.add_machine(), cluster.add_machine()
        ways = {HOST: between_hosts(*machines), SLIM: between_containers(*machines)}
        for way in ways.values():
            stack.enter_context(serving(way, netbench))
        grow: Mapping[str, Callable[[], Grow]] = {
            "endpoints on each host": lambda: endpoints(stack, machines),
            "entries of the directory": lambda: directory(machines),
            "open connections": lambda: connections(machines, manyconns)}
        to, measured = grow[what](), []
        for step in steps:
            to(step)
            print(f"{what}: {step:,}", file=sys.stderr, flush=True)
            measured.append({"count": step, **measure(machines, ways, netbench, rounds, seconds)})
    return measured


def measure(machines: Sequence[Machine], ways: Mapping[str, Way], netbench: str, rounds: int,
            seconds: float) -> dict[str, Any]:
    """Measure by kind of transaction: the ratio to the host network, and eBPF's nanoseconds."""
    found = compare(ways, netbench, rounds, seconds)
    return {what: {
        "ratio_to_host": ratio(rates(by_way[SLIM]), rates(by_way[HOST])),
        "ebpf_ns": sum(runs * ns for runs, ns in profile(
            machines, ways[SLIM], netbench, KINDS[what], seconds).values())}
        for what, by_way in found.items()}


def endpoints(stack: ExitStack, machines: Sequence[Machine]) -> Grow:
    """Add endpoints: interfaces with their hooks and map entries, but no containers."""
    numbers, known = itertools.count(1), [0]

    def to(count: int) -> None:
        for machine in machines:
            for _ in range(count - known[0]):
                number = next(numbers)
                endpoint = _endpoint(machine, number, machine.underlay, FIRST_PORT + number)
                veth = machine.netns.call(partial(
                    Veths().create_veth, endpoint.id, endpoint.mac, MTU))
                machine.datapath.publish_endpoint(endpoint, veth)
                machine.datapath.put_remote(endpoint)
                stack.callback(machine.datapath.withdraw_endpoint, endpoint, veth.host_ifindex)
        known[0] = count

    return to


def directory(machines: Sequence[Machine]) -> Grow:
    """Add endpoints of many other hosts to both hosts' directories."""
    numbers, known = itertools.count(1), [0]

    def to(count: int) -> None:
        for number in itertools.islice(numbers, count - known[0]):
            host, port = IPv4Address("203.0.113.0") + number % HOSTS, FIRST_PORT + number // HOSTS
            for machine in machines:
                machine.datapath.put_remote(_endpoint(machine, number, host, port))
        known[0] = count

    return to


def connections(machines: Sequence[Machine], manyconns: str) -> Grow:
    """Add idle connections between ten pairs of containers."""
    client, server = machines
    pairs = [(client.container(f"10.90.1.{number + 1}/16"),
              server.container(f"10.90.2.{number + 1}/16")) for number in range(PAIRS)]
    for _, called in pairs:
        process = called.start(manyconns, "serve", str(PORT))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    known = [0]

    def to(count: int) -> None:
        for caller, called in pairs:
            each = (count - known[0]) // PAIRS
            holder = caller.start(manyconns, "hold", called.address, str(PORT), str(each), "reset")
            assert holder.stdout is not None
            assert json.loads(holder.stdout.readline())["open"] == each
        known[0] = count

    return to


def _endpoint(machine: Machine, number: int, underlay: HostAddress, port: int) -> Endpoint:
    return Endpoint(
        id=EndpointId(secrets.token_hex(32)), network_id=NetworkId("n9"), vni=Vni(9),
        host=HostId(machine.netns.name), underlay=underlay, mac=b"\x02" + secrets.token_bytes(5),
        address=IPv4Interface((IPv4Address("10.128.0.0") + number, 9)), address6=None, port=port)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Make the rows of a Markdown table."""
    rows = ["| | | round trips, of the host's | eBPF, ns | connections, of the host's | eBPF, ns |",
            "|---|---|---|---|---|---|"]
    for what, steps in found.items():
        for step in steps:
            cells = "".join(f" {step[kind]['ratio_to_host']:.2f} | {step[kind]['ebpf_ns']:,.0f} |"
                            for kind in KINDS)
            rows.append(f"| {what} | {step['count']:,} |{cells}")
    return rows


if __name__ == "__main__":
    sys.exit(main())
