"""`make demo`: compares slim with its rivals, on two hosts on this machine with real containers.

Shows what the programs saw, what was on the wire, and a table of host / slim / Docker's
overlay.  It removes everything it made at the end, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.harness import bounds
from bench.harness.image import compiled
from bench.harness.measure import PORT, WORKLOADS, Pair, Sample, ratio
from tests.lab.rig import images
from tests.lab.rig.hosts import Host, Lab, lab_of_this_process

IMAGE = "slim-demo"
HOST, SLIM, OVERLAY = "host", "slim", "overlay"
# One server port for each network: servers on the host's network would otherwise collide.
PORTS = {HOST: PORT + 100, SLIM: PORT, OVERLAY: PORT}
OWN_BRIDGE, INTERNAL = "own-bridge", "app-internal"
START_PAUSE_S = 0.5
CALL = ("python3", "/programs/tcp.py")


def say(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


def progress(text: str) -> None:
    """Show the current step on a terminal, in one line that the next step overwrites."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


def build_image() -> bytes:
    """Python, iperf3 and netbench, compiled here."""
    with tempfile.TemporaryDirectory() as folder:
        compiled("netbench", folder, "-static")
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{folder}:{path}"
        try:
            return images.tools(("netbench",))
        finally:
            os.environ["PATH"] = path


def bring_up(lab: Lab) -> tuple[Host, Host]:
    """Two hosts with dockerd, the driver, one slim network and one overlay network."""
    h1, h2 = lab.up(2)
    lab.load_image(IMAGE, build_image())
    lab.start_etcd()
    for host in (h1, h2):
        host.start_driver()
        create_network(host, "app", "10.32.0.0/16")
    h1.docker("swarm", "init", "--advertise-addr", str(h1.address))
    token = h1.docker("swarm", "join-token", "-q", "worker")
    h2.docker("swarm", "join", "--advertise-addr", str(h2.address), "--token", token,
              f"{h1.address}:2377")
    h1.docker("network", "create", "-d", "overlay", "--attachable", OVERLAY)
    return h1, h2


def create_network(host: Host, name: str, subnet: str, *options: str) -> None:
    """Create a slim network on one host."""
    host.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", subnet,
                *options, name)


def start_pair(network: str, h1: Host, h2: Host) -> Pair:
    """Start a client on h1 and servers on h2, on one of the three networks."""
    docker_network = {SLIM: "app"}.get(network, network)
    port = PORTS[network]
    server = f"server-{network}"
    h2.docker("run", "-d", "--name", server, "--network", docker_network, IMAGE, "sh", "-c",
              f"iperf3 -s -p {port + 1} >/dev/null & exec netbench serve {port}")
    client = f"client-{network}"
    h1.docker("run", "-d", "--name", client, "--network", docker_network, IMAGE, "sleep", "9999")
    if network == HOST:
        return Pair(network, h1, client, str(h2.address), port)
    address = h2.docker("inspect", "-f",
                        f'{{{{(index .NetworkSettings.Networks "{docker_network}").IPAddress}}}}',
                        server)
    return Pair(network, h1, client, address, port)


def show_connection(h1: Host, h2: Host) -> None:
    """Make one connection over slim; print what both programs and a capture see."""
    h2.docker("run", "-d", "--name", "peer", "--network", "app", IMAGE, *CALL, "serve", "7000")
    address = h2.docker("inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "peer")
    with h2.capture() as capture:
        seen = h1.docker("run", "--rm", "--network", "app", IMAGE, *CALL, "call", "--retry-s",
                         "10", address, "7000")
    for side, names in json.loads(seen).items():
        if side != "rounds":
            say(f"What the {side}'s program saw: local {names['local']}, peer {names['peer']}")
    on_wire = capture.packets("tcp and not port 2379 and not port 2377 and not port 7946")
    vxlan = capture.packets("udp port 14789 or udp port 4789")
    say(f"What was on the wire between the hosts: {len(on_wire)} packets of plain TCP, "
        f"{len(vxlan)} of VXLAN")
    for line in on_wire[:4]:
        say(f"    {line[:120]}")


def start_times(h1: Host, rounds: int) -> dict[str, float]:
    """Median milliseconds of `docker run --rm … true` on each kind of network."""
    # Docker's default bridge has no name server; user-defined bridges have one, as slim's do.
    h1.docker("network", "create", OWN_BRIDGE)
    create_network(h1, INTERNAL, "10.33.0.0/16", "--internal")
    networks = ["bridge", OWN_BRIDGE, "app", INTERNAL]
    took: dict[str, list[float]] = {network: [] for network in networks}
    for number in range(rounds):
        first = number % len(networks)  # so that no network always follows the same one
        for network in networks[first:] + networks[:first]:
            progress(f"round {number + 1}/{rounds}: docker run, {network}")
            # dockerd, containerd and the driver still work after they have answered: the next
# start must not pay for that.
            time.sleep(START_PAUSE_S)
            begin = time.monotonic()
            h1.docker("run", "--rm", "--network", network, IMAGE, "true")
            took[network].append((time.monotonic() - begin) * 1000)
    progress("")
    return {network: statistics.median(list_ms) for network, list_ms in took.items()}


def measure(pairs: list[Pair], rounds: int, seconds: float) -> dict[str, dict[str, list[Sample]]]:
    """Run all workloads on all networks in turn, `rounds` times; workload -> network -> runs."""
    results: dict[str, dict[str, list[Sample]]] = {
        name: {pair.network: [] for pair in pairs} for name in WORKLOADS}
    for number in range(rounds):
        for name, workload in WORKLOADS.items():
            for pair in pairs:
                progress(f"round {number + 1}/{rounds}: {name}, {pair.network}")
                results[name][pair.network].append(workload(pair, seconds))
    progress("")
    return results


def table(results: dict[str, dict[str, list[Sample]]]) -> list[str]:
    """Rows of a Markdown table: medians, and ratios of runs one after the other."""
    rows = ["| | host | slim | Docker's overlay | slim / host | slim / overlay |",
            "|---|---|---|---|---|---|"]

    def row(title: str, field: Callable[[Sample], float], runs: dict[str, list[Sample]],
            digits: int) -> None:
        values = {network: [field(s) for s in samples] for network, samples in runs.items()}
        medians = [f"{statistics.median(values[n]):,.{digits}f}" for n in (HOST, SLIM, OVERLAY)]
        rows.append(f"| {title} | {' | '.join(medians)} | {ratio(values[SLIM], values[HOST]):.2f}"
                    f" | {ratio(values[SLIM], values[OVERLAY]):.2f} |")

    for name, runs in results.items():
        row(name, lambda s: s.value, runs, 1 if "Gbit" in name else 0)
        if "Gbit" not in name:
            row(f"CPU per {name.split('s/')[0]}, µs", lambda s: s.cpu_us_per_unit, runs, 1)
    return rows


def main() -> int:
    """Run the demo; the exit status is 0 if it ran to its end."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--rounds", type=bounds.rounds, default=5,
                        help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=bounds.seconds, default=2.0,
                        help="length of a run (default 2); iperf3's is the next whole number")
    parser.add_argument("--starts", type=bounds.rounds, default=12,
                        help="container starts on each network (default 12)")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    options = parser.parse_args()
    if shutil.which("gcc") is None:
        say("demo: gcc is missing (make demo installs it)")
        return 1
    # SIGINT too: a shell without job control makes its background jobs ignore it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with lab_of_this_process("slimdemo") as lab:
        try:
            return run(lab, options)
        except KeyboardInterrupt:
            say("\ninterrupted: cleaning up")
            return 130


def run(lab: Lab, options: argparse.Namespace) -> int:
    """Bring up the hosts, measure, and print the results."""
    say("Two hosts on this machine, each with its own dockerd and driver …")
    h1, h2 = bring_up(lab)
    show_connection(h1, h2)
    pairs = [start_pair(network, h1, h2) for network in (HOST, SLIM, OVERLAY)]
    results = measure(pairs, options.rounds, options.seconds)
    starts = start_times(h1, options.starts)
    say(f"h1 to h2, medians of {options.rounds} interleaved rounds of {options.seconds:g} s; "
        "CPU is that of the whole machine:")
    say()
    for line in table(results):
        say(line)
    say()
    say(f"docker run --rm … true: {starts['bridge']:.0f} ms on the default bridge, "
        f"{starts[OWN_BRIDGE]:.0f} ms on a bridge network, {starts['app']:.0f} ms on slim "
        f"({starts[INTERNAL]:.0f} ms if --internal: without docker_gwbridge)")
    counters = h1.counters()
    say(f"connections of h1 on the host path: {counters['connected']}; fallbacks to the overlay: "
        f"{counters['unknown_peer'] + counters['ports_busy'] + counters['flow_refused']}")
    if options.json:
        options.json.write_text(json.dumps({
            name: {network: [(s.value, s.cpu_us_per_unit) for s in samples]
                   for network, samples in runs.items()}
            for name, runs in results.items()} | {"docker run, ms": starts}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
