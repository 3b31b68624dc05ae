"""Lists what Prometheus is told: each family's name, kind, labels and meaning; docs/metrics.md too.

No label has the id, the name or the address of a container, a host or a network; `pool` has a
network's subnet, for POOLS_MAX of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from driver.work.tally import Durations

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
PREFIX: Final = "slim"
POOLS_MAX: Final = 20  # address pools that are told one by one: the fullest

Labels = tuple[str, ...]
# A part's answer: family -> label values -> value.
Reading = Mapping[str, Mapping[Labels, float | Durations]]


@dataclass(frozen=True)
class Family:
    """One family; its values come from the part of that name."""

    name: str
    kind: str
    part: str
    help: str
    labels: Labels = ()


FAMILIES: Final = (
    Family("slim_build_info", GAUGE, "driver", "Always 1: the driver's version, and the layout of "
           "its kernel maps.", ("version", "layout")),
    Family("slim_start_time_seconds", GAUGE, "driver",
           "When this driver began, since the epoch."),
    Family("slim_reasons_total", COUNTER, "reasons", "Packets and connections by the reason for "
           "their way, since the kernel maps were made.", ("reason", "kind")),
    Family("slim_endpoints", GAUGE, "endpoints", "Endpoints of this host that have an interface."),
    Family("slim_sandboxes", GAUGE, "sandboxes", "Sandboxes that are set up: on the host path, or "
           "why they are kept off it.", ("state",)),
    Family("slim_endpoints_waiting", GAUGE, "sandboxes",
           "Endpoints whose sandbox is still to be set up."),
    Family("slim_sandbox_setup_failures_total", COUNTER, "sandboxes",
           "Attempts to set a sandbox up that failed."),
    Family("slim_sandbox_setup_duration_seconds", HISTOGRAM, "sandboxes",
           "From an interface's carrier to the host path, of endpoints joined by this driver."),
    Family("slim_directory_endpoints", GAUGE, "directory",
           "Endpoints, of all hosts, that this host's directory has."),
    Family("slim_directory_doubts", GAUGE, "directory", "Entries of the directory that no readable "
           "record confirms, by what is wrong.", ("doubt",)),
    Family("slim_watch_silence_seconds", GAUGE, "watches", "Since etcd's last sign of life on the "
           "stream that brings changes; it is probed each 5 s."),
    Family("slim_watch_relists_total", COUNTER, "watches",
           "Lists that were read again because their changes could not be followed."),
    Family("slim_etcd_requests_total", COUNTER, "etcd",
           "Requests to etcd, by operation and result.", ("operation", "result")),
    Family("slim_etcd_request_duration_seconds", HISTOGRAM, "etcd",
           "How long requests to etcd took, failed ones included.", ("operation",)),
    Family("slim_docker_calls_total", COUNTER, "docker", "Docker's calls, by method and result "
           "(ok, or the kind of error).", ("method", "result")),
    Family("slim_docker_call_duration_seconds", HISTOGRAM, "docker",
           "How long Docker's calls took, failed ones included.", ("method",)),
    Family("slim_outstanding_steps", GAUGE, "outstanding",
           "Steps that have failed and are repeated until they work.", ("step",)),
    Family("slim_hosts", GAUGE, "hosts", "Hosts of the cluster by state.", ("state",)),
    Family("slim_peers", GAUGE, "peers", "Hosts with endpoints of this host's networks, by what "
           "probes of the host path found.", ("verdict",)),
    Family("slim_guard_in_force", GAUGE, "guard",
           "1 if the guard against forged packets is in place, else 0."),
    Family("slim_guard_dropped_packets_total", COUNTER, "guard",
           "Packets that the guard has dropped, since it was made."),
    Family("slim_name_queries_total", COUNTER, "names", "Queries for names: answered, forwarded to "
           "Docker's name server, or refused.", ("result",)),
    Family("slim_name_forward_failures_total", COUNTER, "names", "Forwarded queries without an "
           "answer: Docker's name server could not be asked, or was late.", ("cause",)),
    Family("slim_endpoint_ports_used", GAUGE, "ports", "Endpoint ports of this host in use."),
    Family("slim_endpoint_ports_free", GAUGE, "ports",
           "Endpoint ports of this host that can still be given out."),
    Family("slim_networks", GAUGE, "pools", "Networks of this host."),
    Family("slim_pool_addresses_used", GAUGE, "pools", "Addresses of endpoints, of all hosts, in "
           "the fullest IPv4 pools.", ("pool",)),
    Family("slim_pool_addresses", GAUGE, "pools",
           "Addresses that endpoints can have in these pools.", ("pool",)),
    Family("slim_map_entries", GAUGE, "maps", "Entries of kernel maps.", ("map",)),
    Family("slim_map_max_entries", GAUGE, "maps", "Entries that kernel maps have room for.",
           ("map",)),
    Family("slim_program_runs_total", COUNTER, "programs", "Runs of an eBPF program; only if the "
           "kernel counts them.", ("program",)),
    Family("slim_program_run_seconds_total", COUNTER, "programs",
           "Time in an eBPF program; only if the kernel counts it.", ("program",)),
)
# Of this module's own, without a part.
SCRAPE_ERRORS: Final = Family(
    "slim_scrape_errors_total", COUNTER, "", "Scrapes that lack a part, because it failed or took "
    "too long.", ("part",))
