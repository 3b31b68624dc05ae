"""Builds what tells Prometheus of this driver: who is asked for which family, and who serves it.

The parts are asked at a scrape only.  None waits for Docker, and none for etcd once this host's
notes are complete.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from typing import TYPE_CHECKING

from driver import __version__
from driver.api.metrics_server import MetricsServer, WsgiApp
from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.hosts import HostParts
from driver.compose.parts.part import Part, nothing
from driver.datapath.code.reasons import read_reasons
from driver.datapath.loading.layout import LAYOUT
from driver.datapath.loading.run_stats import program_runs
from driver.metrics.families import Labels, Reading
from driver.metrics.pools import fullest
from driver.metrics.reading import Parts, Reader
from driver.metrics.serving import MetricsServing
from driver.work.tally import Durations, Tally

if TYPE_CHECKING:
    from driver.metrics.text import Exposition

# Results of calls, in a tally's names; the other name is the operation or method.
_OK, _ERROR = "ok", "error"


class Metrics:
    """The text, wherever it is asked for.  Thread-safe."""

    def __init__(self, ground: Ground, endpoints: EndpointParts, hosts: HostParts) -> None:
        self.docker_calls = Tally()  # by method and result
        self._reader = Reader(_parts(ground, endpoints, hosts, self.docker_calls))
        self._lock = threading.Lock()
        self._exposition: Exposition | None = None
        address = ground.settings.metrics
        self._serving = MetricsServing(
            address.host, address.port,
            lambda: MetricsServer(self._app, address.host, address.port), ground.ledger
        ) if address is not None else None

    def part(self) -> Part:
        """Return what serves them over HTTP; nothing, if no address is set."""
        if self._serving is None:
            return Part("metrics", nothing, nothing)
        return Part("metrics", self._serving.start, self._serving.stop)

    def text(self) -> str:
        """Return everything in Prometheus' text format."""
        return self._loaded().text()

    def describe(self) -> str:
        """Say for the status where they are served."""
        return "off: no --metrics" if self._serving is None else self._serving.describe()

    def _app(self) -> WsgiApp:
        return self._loaded().app()

    def _loaded(self) -> Exposition:
        """Load the library when somebody wants metrics: the others are spared its memory."""
        with self._lock:
            if self._exposition is None:
                from driver.metrics.text import Exposition  # noqa: PLC0415

                self._exposition = Exposition(self._reader)
            return self._exposition


def build_metrics(ground: Ground, endpoints: EndpointParts, hosts: HostParts) -> Metrics:
    """Build it; nothing is read yet."""
    return Metrics(ground, endpoints, hosts)


def _parts(ground: Ground, endpoints: EndpointParts, hosts: HostParts, docker_calls: Tally
           ) -> Parts:
    kernel, stores = ground.kernel, ground.stores
    kinds = {reason.name: reason.kind for reason in read_reasons()}
    build, started_s = (__version__, str(LAYOUT)), time.time()

    def sandboxes() -> Reading:
        counts = endpoints.finisher.counts()
        return {"slim_sandboxes": _by(endpoints.withholding.counts()),
                "slim_endpoints_waiting": _one(endpoints.finisher.waiting()),
                "slim_sandbox_setup_failures_total": _one(counts.failed_attempts),
                # With () of the start on, so that it is there before the first one.
                "slim_sandbox_setup_duration_seconds": {
                    (): Durations(), **endpoints.setups.read()}}

    def directory() -> Reading:
        doubts = endpoints.publisher.uncertain()
        return {"slim_directory_endpoints": _one(endpoints.publisher.directory_size()),
                "slim_directory_doubts": _by({
                    "missing": doubts.missing, "unreadable": len(doubts.unreadable),
                    "contested": doubts.contested, "unlisted": doubts.unlisted})}

    def etcd() -> Reading:
        calls = dict(stores.calls.read())
        for operation, _ in list(calls):  # both are there from the first request on
            for result in (_OK, _ERROR):
                calls.setdefault((operation, result), Durations())
        return {"slim_etcd_requests_total": _counts(calls),
                "slim_etcd_request_duration_seconds": _by_first(calls)}

    def docker() -> Reading:
        calls = docker_calls.read()
        return {"slim_docker_calls_total": _counts(calls),
                "slim_docker_call_duration_seconds": _by_first(calls)}

    def guard() -> Reading:
        dropped = kernel.guarding.dropped()
        return {"slim_guard_in_force": _one(dropped is not None)} | (
            {} if dropped is None else {"slim_guard_dropped_packets_total": _one(dropped)})

    def names() -> Reading:
        counts = endpoints.names.counts()
        return {"slim_name_queries_total": _by({
                    "answered": counts.answered, "forwarded": counts.forwarded,
                    "refused": counts.refused}),
                "slim_name_forward_failures_total": _by({
                    "failed": counts.failed, "late": counts.late})}

    def pools() -> Reading:
        sizes = endpoints.publisher.sizes()
        networks = stores.networks.list()
        used = {subnet: sizes.get(network.vni, 0) for network in networks
                for subnet in map(ip_network, network.subnets) if isinstance(subnet, IPv4Network)}
        return {"slim_networks": _one(len(networks)), **fullest(used)}

    def maps() -> Reading:
        found = kernel.datapath.usage()
        return {"slim_map_entries": _by({name: used for name, (used, _) in found.items()}),
                "slim_map_max_entries": _by({name: most for name, (_, most) in found.items()})}

    def programs() -> Reading:
        runs = program_runs(kernel.loaded.programs)
        if not runs:
            return {}
        return {"slim_program_runs_total": _by({name: each.count for name, each in runs.items()}),
                "slim_program_run_seconds_total": _by(
                    {name: each.seconds for name, each in runs.items()})}

    return {
        "driver": lambda: {"slim_build_info": {build: 1},
                           "slim_start_time_seconds": _one(started_s)},
        "reasons": lambda: {"slim_reasons_total": {
            (name, kinds[name]): count for name, count in kernel.datapath.counters().items()}},
        "endpoints": lambda: {"slim_endpoints": _one(endpoints.publisher.local_size())},
        "sandboxes": sandboxes, "directory": directory,
        "watches": lambda: {"slim_watch_silence_seconds": _one(stores.feeds.silent_s()),
                            "slim_watch_relists_total": _one(stores.feeds.relists())},
        "etcd": etcd, "docker": docker,
        "outstanding": lambda: {"slim_outstanding_steps": _by(ground.ledger.counts())},
        "hosts": lambda: {"slim_hosts": _by(hosts.watch.counts())},
        "peers": lambda: {"slim_peers": _by(hosts.peers.counts())},
        "guard": guard, "names": names,
        "ports": lambda: {"slim_endpoint_ports_used": _one(endpoints.ports.in_use()),
                          "slim_endpoint_ports_free": _one(endpoints.ports.free())},
        "pools": pools, "maps": maps, "programs": programs}


def _one(value: float) -> Mapping[Labels, float]:
    return {(): float(value)}


def _by(values: Mapping[str, float]) -> Mapping[Labels, float]:
    return {(name,): float(value) for name, value in values.items()}


def _counts(calls: Mapping[Labels, Durations]) -> Mapping[Labels, float]:
    return {names: float(found.count) for names, found in sorted(calls.items())}


def _by_first(calls: Mapping[Labels, Durations]) -> Mapping[Labels, Durations]:
    """Add up what differs in its result only."""
    found: dict[Labels, Durations] = {}
    for (first, *_), durations in sorted(calls.items(), key=lambda each: each[0]):
        known = found.get((first,))
        found[first,] = durations if known is None else known.plus(durations)
    return found
