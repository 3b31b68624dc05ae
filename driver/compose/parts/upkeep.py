"""Builds what maintains this host: recovery at the start, sweeps, collecting, and memory.

No call of Docker's needs these parts for its answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from driver.compose.parts.addresses import AddressParts
from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.part import Part
from driver.engine.docker import DockerEngine
from driver.engine.starts import DockerStarts
from driver.process import memory
from driver.services.upkeep.collect import Collector, Removals
from driver.services.upkeep.reconcile import Reconciler
from driver.services.upkeep.recovery import Recovery
from driver.services.upkeep.starts import LateStarts
from driver.work.repeater import Repeater

SWEEP_S = 5.0  # between removals of what the programs may still have been reading
MEMORY_S = 30.0  # between garbage collections that nobody waits for


@dataclass(frozen=True)
class UpkeepParts:
    """What runs; others wait for `recovery`."""

    recovery: Recovery
    memory: Part
    parts: tuple[Part, ...]

    def recovery_part(self) -> Part:
        """Return the part that takes over what already runs."""
        return Part("recovery", self.recovery.start, self.recovery.stop)


def build_upkeep(ground: Ground, endpoints: EndpointParts, addresses: AddressParts
                 ) -> UpkeepParts:
    """Build it; what Docker has forgotten is collected only if Docker's socket is configured."""
    settings, kernel, stores = ground.settings, ground.kernel, ground.stores
    reconciler = Reconciler(
        networks=stores.networks, endpoints=stores.endpoints, links=endpoints.links,
        sandboxes=endpoints.sandboxes, finisher=endpoints.finisher, pinned=kernel.datapath,
        following=endpoints.following, listener=endpoints.publisher,
        service=endpoints.endpoints, vips=endpoints.vips)

    # A list of tasks goes some time after its vip: a program may still be reading it.
    repeated = [Repeater("vips' old lists", kernel.datapath.sweep_vips, SWEEP_S)]
    if settings.docker_socket:
        collector = Collector(
            engine=DockerEngine(settings.docker_socket), networks=stores.networks,
            endpoints=stores.endpoints, links=endpoints.links, sandboxes=endpoints.sandboxes,
            after_s=settings.collect_after, removals=Removals(
                endpoints.endpoints, endpoints.networks, addresses.addresses))
        # Checked several times before removal; the longest wait is 1.5 times collect_after.
        repeated.append(Repeater("collecting", collector.run, settings.collect_after / 2))
        late = LateStarts(DockerStarts(settings.docker_socket),
                          lambda: [each.id for each in stores.networks.list()], ground.ledger)
        repeated.append(Repeater("late starts", late.look, late.interval_s))
    housekeeping = Repeater("memory", memory.give_back, MEMORY_S)
    return UpkeepParts(
        Recovery(reconciler, stores.network_records.on_record),
        Part("memory", housekeeping.start, housekeeping.stop),
        tuple(Part(each.name, each.start, each.stop) for each in repeated))
