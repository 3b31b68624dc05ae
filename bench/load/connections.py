"""Measures very many connections at once on the host path, between two hosts that are namespaces.

No dockerd, no etcd, no driver process: connections concern the kernel alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.harness.image import compiled
from bench.load.host import median
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster, Container, Machine

PAIRS = 10  # containers on each host: a process may have 20,000 descriptors on some machines
PORT = 7000
PROBE = 500  # connections that are made to time a new one
ROUNDS = 7
OPEN_S = 120.0
OPEN = 2  # enum flow_state in kernel/include/slim.h


def measure(count: int) -> dict[str, Any]:
    """Open `count` connections, one container after the other; close everything at the end."""
    with ExitStack() as stack:
        program = compiled("manyconns", stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = Cluster(stack)
        client_host, server_host = cluster.add_machine(), cluster.add_machine()
        clients, servers = [], []
        for number in range(PAIRS + 1):
            clients.append(client_host.container(f"10.32.1.{number + 1}/16"))
            servers.append(server_host.container(f"10.32.2.{number + 1}/16"))
            server = servers[-1].start(program, "serve", str(PORT))
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        probe = clients.pop(), servers.pop()
        idle = [_probe(program, *probe) for _ in range(ROUNDS)]
        _sweep(client_host, server_host)
        slab, maps = _slab_kb(), _flows_bytes(client_host) + _flows_bytes(server_host)
        before = client_host.counters(), server_host.counters()
        begin = time.monotonic()
        holders = [client.start(program, "hold", server.address, str(PORT), str(count // PAIRS))
                   for client, server in zip(clients, servers, strict=True)]
        opened = [json.loads(holder.stdout.readline()) for holder in holders if holder.stdout]
        opened_s = time.monotonic() - begin
        slab, maps = (_slab_kb() - slab,
                      _flows_bytes(client_host) + _flows_bytes(server_host) - maps)
        after = client_host.counters(), server_host.counters()
        connected, accepted = (new[name] - old[name] for old, new, name in zip(
            before, after, ("connected", "accepted"), strict=True))
        flows = _open(client_host), _open(server_host)
        begin = time.monotonic()
        client_host.datapath.sweep_flows()
        swept_s = time.monotonic() - begin
        busy = [_probe(program, *probe) for _ in range(ROUNDS)]
        for holder in holders:
            holder.communicate(timeout=OPEN_S)  # closes its standard input, which ends it
        wait_until(lambda: _open(server_host) == 0, OPEN_S, "all connections are closed", 0.5)
        return {
            "connections": count, "opened_s": opened_s, "connected": connected,
            "accepted": accepted, "flows": flows,
            "open_p50_us": median([found["p50_us"] for found in opened]),
            "open_p99_us": median([found["p99_us"] for found in opened]),
            "new_us": {"0 open": [median(idle), min(idle)],
                       f"{count} open": [median(busy), min(busy)]},
            "flow_bytes_per_connection": maps / count, "slab_bytes_per_connection":
                slab * 1024 / count, "sweep_s": swept_s}


def _probe(program: str, client: Container, server: Container) -> float:
    """Return the median microseconds of a connect()."""
    done = client.run("sh", "-c", f"{program} hold {server.address} {PORT} {PROBE} </dev/null")
    return float(json.loads(done.stdout)["p50_us"])


def _open(machine: Machine) -> int:
    """Count the flows of open connections (the rest is claimed, or in TIME_WAIT)."""
    entries: list[Any] = machine.flows()
    return sum(1 for _, leaf in entries if leaf.state == OPEN)


def _sweep(*machines: Machine) -> None:
    for machine in machines:
        machine.datapath.sweep_flows()


def _slab_kb() -> int:
    found = re.search(r"^Slab:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _flows_bytes(machine: Machine) -> int:
    shown = subprocess.run(["bpftool", "map", "show", "pinned", str(machine.pins / "v1/flows")],
                           check=True, capture_output=True, text=True).stdout
    found = re.search(r"memlock (\d+)B", shown)
    assert found is not None
    return int(found[1])
