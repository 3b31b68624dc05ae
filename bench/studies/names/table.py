"""Measures what the names of a directory take in memory, and how long one is looked for there.

    .venv/bin/python -m bench.studies.names.table ENDPOINTS NAMES NETWORKS

A process fills the driver's own table with endpoints that have NAMES names each, as they come
from etcd, and prints one line of JSON.  Nothing runs beside it: no Docker, no etcd.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from statistics import median
from typing import Any, cast

import dns.message
import dns.reversename

from bench.load.directory import remote
from driver.dns.messages import read_question, write_answer
from driver.model import Endpoint, EndpointId, NetworkId, Vni
from driver.services.names.resolver import Resolver
from driver.services.names.table import NameTable
from driver.services.ports import Container, DirectoryListener, NameReply, NamesView
from driver.store.format import records

# endpoints, names of each, networks
STEPS = ((25_000, 4, 1), (25_000, 4, 50), (100_000, 1, 1), (100_000, 1, 50))
HERE = 200  # containers of this host that Docker tells of, each in a bridge network, too
TRIES, TRIES_S = 2000, 1.0  # of a question, at most
SUBNET = int(IPv4Address("10.0.0.0"))
PAGE = os.sysconf("SC_PAGE_SIZE")
SANDBOX = "sandbox"
BRIDGE = NetworkId("b" * 64)


class _Directory:
    """What is needed of a directory that has every endpoint; it notes only that it has it."""

    def __init__(self) -> None:
        self.known: set[EndpointId] = set()

    def has(self, _vni: Vni, endpoint_id: EndpointId) -> bool:
        return endpoint_id in self.known

    def put(self, endpoint: Endpoint) -> None:
        self.known.add(endpoint.id)


def measured(step: tuple[int, int, int]) -> dict[str, Any]:
    """Measure in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "bench.studies.names.table", *map(str, step)],
                          check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return dict(json.loads(done.stdout))


def main() -> int:
    """Fill the table, ask, print."""
    endpoints, names, networks = map(int, sys.argv[1:4])
    directory = _Directory()
    table = NameTable(cast(DirectoryListener, directory), directory.has)
    values = [_record(number, names, networks) for number in range(endpoints)]
    directory.known.update(EndpointId(json.loads(value)["id"]) for value in values)
    before_mb, began_s = _memory_mb(), time.perf_counter()
    for value in values:
        table.put(records.parse("it", value, records.endpoint))
    filled_s, memory_mb = time.perf_counter() - began_s, _memory_mb() - before_mb
    view = _view()
    resolver = Resolver(table, lambda: view)
    resolver.enter(SANDBOX, [_own()])
    kinds = {"a name": ("web-0-0", "A"), "with the network's name": ("web-0-0.app", "A"),
             "not found": ("nobody", "A"), "an address": (_address(0), "PTR"),
             "an address not found": ("192.0.2.1", "PTR")}
    us = {what: _asked_us(resolver, _query(*asked)) for what, asked in kinds.items()}
    query = _query("web-0-0", "A")
    reply = NameReply((IPv4Address(SUBNET),))
    us["to read a query"] = _us(lambda: read_question(query))
    us["to write an answer"] = _us(lambda: write_answer(query, reply, udp=True))
    found = {"endpoints": endpoints, "names": names, "networks": networks,
             "memory_mb": memory_mb, "filled_s": filled_s, "us": us}
    print(json.dumps(found))
    return 0


def _endpoint(number: int, names: int, networks: int) -> Endpoint:
    vni = 1 + number % networks
    made = remote(vni, SUBNET, number)
    return Endpoint(**{**vars(made), "address": IPv4Interface(_address(number)), "names": tuple(
        f"web-{number}-{each}" for each in range(names))})


def _address(number: int) -> str:
    return str(IPv4Address(SUBNET + 256 + number))


def _record(number: int, names: int, networks: int) -> bytes:
    return records.encode(records.shared_endpoint_fields(_endpoint(number, names, networks)))


def _own() -> Endpoint:
    return _endpoint(0, 0, 1)


def _view() -> NamesView:
    """Return what Docker says: this host's containers, in our network and in a bridge network."""
    own = _own()
    ids = [own.id, *(EndpointId(f"e{number}") for number in range(1, HERE))]
    containers = tuple(Container(
        f"here-{number}", {each: frozenset((f"here-{number}", f"{number:012x}")),
                           EndpointId(f"b{number}"): frozenset((f"here-{number}",))}, frozenset())
        for number, each in enumerate(ids))
    return NamesView(containers, {own.network_id: "app", BRIDGE: "own"}, {
        **dict.fromkeys(ids, own.network_id),
        **{EndpointId(f"b{number}"): BRIDGE for number in range(HERE)}})


def _query(name: str, kind: str) -> bytes:
    asked = dns.reversename.from_address(name) if kind == "PTR" else name
    return dns.message.make_query(asked, kind).to_wire()


def _asked_us(resolver: Resolver, query: bytes) -> float:
    question = read_question(query)
    assert question is not None
    return _us(lambda: resolver.resolve(SANDBOX, question))


def _us(act: Callable[[], object]) -> float:
    """Return the median microseconds of a call."""
    took: list[float] = []
    end_s = time.perf_counter() + TRIES_S
    while len(took) < TRIES and (not took or time.perf_counter() < end_s):
        began_s = time.perf_counter()
        act()
        took.append((time.perf_counter() - began_s) * 1e6)
    return median(took)


def _memory_mb() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


if __name__ == "__main__":
    sys.exit(main())
