"""Builds what shows this host and the cluster to whoever watches (`slim top`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver import __version__
from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.hosts import HostParts
from driver.compose.parts.part import Part, nothing
from driver.compose.parts.seeing import Seeing
from driver.datapath.code.reasons import read_reasons
from driver.model import HostId, Vni
from driver.services.ports import Address
from driver.services.seeing.refusals import Refusal as Refused
from driver.services.seeing.refusals import at
from driver.services.seeing.sight import Sight
from driver.services.watching.here import Here, Parts
from driver.services.watching.picture import Known, Peer, Picture, Pictures, Refusal
from driver.services.watching.samples import Samples
from driver.services.watching.sampling import Sampler
from driver.services.watching.sharing import Sharing
from driver.store.format import keys
from driver.store.summaries import EtcdSummaries, WatcherListener


@dataclass(frozen=True)
class PictureParts:
    """What answers, and what runs for it."""

    take: Callable[[bool], Picture]
    parts: tuple[Part, ...]


def build_picture(ground: Ground, endpoints: EndpointParts, hosts: HostParts, seeing: Seeing
                  ) -> PictureParts:
    """Build it; nothing is sampled, asked or told until somebody watches."""
    here = Here(Parts(
        ground.me, __version__, seeing.sources, endpoints.publisher.sizes,
        ground.kernel.datapath.counters, {each.name: each.kind for each in read_reasons()}),
        Sampler(seeing.open_sockets, Sight(seeing.names, seeing.lookups)))
    samples = Samples(here)
    sharing = Sharing(ground.me, EtcdSummaries(ground.stores.admitted, ground.me),
                      samples.latest, samples.watched,
                      hosts=lambda: hosts.watch.counts()["registered"])

    def peer(vni: Vni, address: Address) -> Peer:
        named = endpoints.names.table.find(vni, address)
        at = seeing.lookups.location(vni, address)
        return Peer(named[0].names[0] if named else "", at.host if at is not None else None)

    def refusals() -> list[Refusal]:
        return [_refusal(ground.me, each) for each in seeing.refusals.last()]

    pictures = Pictures(Known(ground.this_host, hosts.watch.hosts, peer, refusals), samples,
                        sharing)
    listener = WatcherListener(sharing.watchers)
    return PictureParts(pictures.take, (
        Part("samples", samples.start, samples.stop),
        Part("summaries", sharing.start, sharing.stop),
        Part("who watches", lambda: _follow(ground, listener), nothing)))


def _refusal(me: HostId, seen: Refused) -> Refusal:
    return Refusal(seen.last_s, me, seen.container or str(seen.own or ""), seen.reason,
                   "" if seen.peer is None else at(
        seen.peer, 0 if seen.inbound else seen.peer_port), seen.count)


def _follow(ground: Ground, listener: WatcherListener) -> None:
    ground.stores.feeds.follow(keys.WATCHERS, listener)
