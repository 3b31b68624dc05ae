"""Collects what `slim status` prints: one line per part, each from the part itself.

A line that a person must act on contains the words that driver/doctor/driver_says.py looks for.
"""

from __future__ import annotations

from collections.abc import Mapping

from driver import __version__
from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.hosts import HostParts
from driver.compose.parts.metrics import Metrics
from driver.compose.parts.swarm import SwarmParts
from driver.services.sandboxes.withholding import NO_HOST_PATH
from driver.services.upkeep.recovery import Recovery


def status_of(ground: Ground, endpoints: EndpointParts, hosts: HostParts, swarm: SwarmParts,
              recovery: Recovery, *, metrics: Metrics) -> Mapping[str, str]:
    """Return the lines by name, in the order of display."""
    counts = endpoints.finisher.counts()
    found = ground.underlay.found
    return {
        "version": __version__,
        "host": f"{ground.this_host.name} {ground.me}",
        "underlay": _joined(f"{found.address} on {found.name}, MTU {ground.underlay.mtu()}",
                            ground.underlay.narrow_way()),
        "etcd": ground.stores.describe(),
        "registration": hosts.registry.describe(),
        "recovery": recovery.state(),
        "records": hosts.entering.describe(),
        "directory": _joined(f"{endpoints.publisher.directory_size()} endpoints",
                             hosts.uncertain.settling.describe()),
        "services": _joined(
            f"{endpoints.vips.count()} addresses, {swarm.publishing.describe()}",
            swarm.holdings.describe(), hosts.uncertain.settling.describe_vips()),
        "ports": _joined(f"{endpoints.ports.in_use()} endpoint ports in use",
                         ground.host_ports.problem()),
        "hosts": _joined(hosts.watch.describe(), hosts.families.describe()),
        "peers": hosts.peers.describe() if ground.underlay.host_path else NO_HOST_PATH,
        "guard": ground.kernel.guarding.state(),
        "host path": endpoints.withholding.describe(),
        "names": endpoints.names.describe(),
        "metrics": metrics.describe(),
        "sandboxes": f"{counts.finished} finished, {counts.failed_attempts} failed attempts, "
                     f"{counts.given_up} given up",
        "outstanding": ground.ledger.describe() or "nothing: every step has been done"}


def _joined(*said: str) -> str:
    return "; ".join(filter(None, said))
