"""Measures what it costs to choose a task behind a vip, on slim and on Docker's overlay.

    .venv/bin/python -m bench.studies.services

Two hosts of the lab are in a swarm, with the managed plugin.  A client on the first calls tasks
on the second: on the host's network, a task by its own address, and a service by its vip.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median

from bench.demo import build_image, progress, say
from bench.harness import bounds
from bench.harness.measure import PORT, Pair, Results, Sample, interleaved, ratio, transactions
from tests.lab.rig import dockers
from tests.lab.rig.hosts import CommandFailed, Host
from tests.lab.rig.plugged import (
    create_network,
    create_service,
    join,
    network_removed,
    plugged_lab,
    published,
    remove_all,
    task_containers,
    wait_running,
)
from tests.support.run.wait import wait_until

IMAGE = "slim-services"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
REPLICAS = 2
SLIM, OVERLAY = "app", "over"
HOST = "host's network"
TITLES = {SLIM: "slim", OVERLAY: "Docker's overlay"}
WORKLOADS = {"round trips/s": "rr", "connections/s": "crr+"}


def main(argv: Sequence[str] | None = None) -> int:
    """Bring two hosts up, measure, print a table."""
    parser = argparse.ArgumentParser(prog="bench.studies.services", description=__doc__)
    parser.add_argument("--rounds", type=bounds.rounds, default=7)
    parser.add_argument("--seconds", type=bounds.seconds, default=1.0)
    given = parser.parse_args(argv)
    with plugged_lab("slimservices", *dockers.trees("20.10") * 2) as lab:
        hosts = lab.hosts
        hosts[0].docker("swarm", "init", "--advertise-addr", str(hosts[0].address))
        join(hosts[1], hosts[0], "worker")
        for line in table(compare(hosts[0], hosts[1], given.rounds, given.seconds)):
            say(line)
    return 0


def compare(client: Host, server: Host, rounds: int, seconds: float) -> Results:
    """Measure all ways in turn; networks and services are removed again.

    client: a manager; server: a node of its swarm; both with the plugin.
    """
    client.lab.load_image(IMAGE, build_image())
    try:
        pairs = {pair.network: pair for pair in set_up(client, server)}

        def run(number: int, workload: str, way: str) -> Sample:
            progress(f"round {number + 1}/{rounds}: {workload}, {way}")
            return transactions(pairs[way], WORKLOADS[workload], seconds)

        found = interleaved(WORKLOADS, pairs, rounds, run)
        progress("")
        return found
    finally:
        remove_all([client, server])
        wait_until(partial(network_removed, client, OVERLAY), 60, "the overlay to be removed")


def set_up(client: Host, server: Host) -> list[Pair]:
    """Start a client and a service on each network; return the ways that work."""
    create_network(client, SLIM)
    client.docker("network", "create", "-d", "overlay", "--attachable", OVERLAY)
    server.docker("run", "-d", "--name", "server-host", "--network", "host", IMAGE, "netbench",
                  "serve", str(PORT + 100))
    client.docker("run", "-d", "--name", "client-host", "--network", "host", IMAGE, "sleep", "9999")
    ways = [Pair(HOST, client, "client-host", str(server.address), PORT + 100)]
    node = server.docker("info", "-f", "{{.Swarm.NodeID}}").strip()
    for network, title in TITLES.items():
        service, caller = f"web-{network}", f"client-{network}"
        create_service(client, service, "--replicas", str(REPLICAS), "--constraint",
                       f"node.id=={node}", network=network, image=IMAGE,
                       command=("netbench", "serve", str(PORT)))
        client.docker("run", "-d", "--name", caller, "--network", network, IMAGE, "sleep", "9999")
        wait_running(client, service, REPLICAS)
        task = server.docker("inspect", "-f", "{{.NetworkSettings.Networks."
                             f"{network}.IPAddress}}}}", task_containers(server, service)[0])
        own = client.docker("exec", caller, "python3", "-c",
                            "import socket, sys; print(socket.gethostbyname(sys.argv[1]))", service)
        ways.append(Pair(f"{title}, a task", client, caller, task.strip()))
        ways.append(Pair(f"{title}, the service", client, caller, own.strip()))
    wait_until(lambda: len(published(client.lab).get(f"web-{SLIM}", ())) == REPLICAS, 20,
               "the service is published")
    *ways, docker_service = ways
    if _answers(docker_service):
        ways.append(docker_service)
    else:
        say(f"left out: {docker_service.network}: it does not answer; it needs IPVS in the kernel")
    return ways


def _answers(way: Pair) -> bool:
    try:
        way.client_host.docker("exec", way.client, "python3", "-c", CONNECT, way.server_address,
                               str(way.port))
    except CommandFailed:
        return False
    return True


def table(found: Results) -> list[str]:
    """Make the rows of a Markdown table: medians, and ratios of runs of the same round."""
    rows = ["| | | 1/s | of the host's | CPU, µs each |", "|---|---|---|---|---|"]
    for workload, ways in found.items():
        host = [sample.value for sample in ways[HOST]]
        for way, samples in ways.items():
            values = [sample.value for sample in samples]
            rows.append(f"| {workload} | {way} | {median(values):,.0f} | "
                        f"{ratio(values, host):.2f} | "
                        f"{median(sample.cpu_us_per_unit for sample in samples):.1f} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
