"""Builds what finds out which hosts the host path's SYNs reach.

It also builds what asks hosts without a lease for signs of life.
"""

from __future__ import annotations

from dataclasses import dataclass

from driver.client_ports import ClientPorts
from driver.compose.parts.part import Part, nothing
from driver.datapath.loading.load import Loaded
from driver.datapath.tables.host_paths import BlockedHosts, Probes
from driver.link.underlay.device import Underlay
from driver.link.underlay.probe import UnderlayProber
from driver.link.underlay.syn_probe import RawSynProber
from driver.services.peers.index import PeerIndex
from driver.services.peers.signs import SignsOfLife
from driver.services.peers.watch import INTERVAL_S, PeerWatch
from driver.services.upkeep.recovery import Recovery
from driver.settings import Settings
from driver.work.repeater import Repeater


@dataclass(frozen=True)
class Peers:
    """The watch, its runner, and what asks hosts without a lease."""

    watch: PeerWatch
    signs: SignsOfLife
    parts: tuple[Part, ...]


def build_peers(settings: Settings, underlay: Underlay, loaded: Loaded, *, clients: ClientPorts,
                index: PeerIndex, recovery: Recovery) -> Peers:
    """Build all parts; recovery: says when the index is complete."""
    syns = _syn_prober(loaded, underlay, clients)
    presence = UnderlayProber()
    watch = PeerWatch(index=index, syns=syns, presence=presence, paths=BlockedHosts(loaded),
                      ports=str(settings.port_range), settled=recovery.done.is_set)
    watching = Repeater("watching peers", watch.run, INTERVAL_S)
    # It has sockets of its own, because it runs in another thread.
    pings = UnderlayProber()
    raw = _syn_prober(loaded, underlay, clients)
    signs = SignsOfLife(pings, raw, index, settings.port_range.last)
    return Peers(watch, signs, (Part("probes", nothing, syns.close),
                                Part("pings of peers", nothing, presence.close),
                                Part("signs of life", nothing, pings.close),
                                Part("SYNs for a sign of life", nothing, raw.close),
                                Part("watching peers", watching.start, watching.stop)))


def _syn_prober(loaded: Loaded, underlay: Underlay, clients: ClientPorts) -> RawSynProber:
    return RawSynProber(Probes(loaded), underlay.address, underlay.ifindex, clients.all())
