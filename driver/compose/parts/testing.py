"""Builds what takes part in tests of the ways between hosts (`slim test`).

The command asks for them (commands/test.py), by way of etcd.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from driver import __version__
from driver.compose.parts.ground import Ground
from driver.compose.parts.part import Part, nothing
from driver.datapath.loading.layout import LAYOUT
from driver.link.underlay.marking import KernelMarker
from driver.model import HostAddress
from driver.services.ports import Participant
from driver.services.testing.newcomer import Newcomer
from driver.services.testing.taking_part import TakingPart
from driver.store.format import keys
from driver.store.rounds import EtcdRounds, RoundListener


def testing_parts(ground: Ground, troubles: Callable[[], Mapping[HostAddress, str]],
                  joined: Callable[[], bool | None]) -> list[Part]:
    """Return them.  troubles: what the probes of the host path have found, by peer.

    joined: whether this host is new to etcd; None: that is not known yet.
    """
    stores, underlay = ground.stores, ground.underlay
    address = underlay.found.address
    rounds = EtcdRounds(stores.kv)

    def describe() -> Participant:
        guard = ground.kernel.guarding.state()
        return Participant(
            ground.me, ground.this_host.name, address, __version__, LAYOUT,
            ground.settings.vxlan_port, ground.host_ports.endpoints, underlay.found.name,
            underlay.mtu(), guard if guard.startswith(("missing", "unknown")) else "",
            rounds.measure_us(), time.time_ns() // 1000)

    taking_part = TakingPart(
        me=ground.me, rounds=rounds, describe=describe, troubles=troubles,
        marker=KernelMarker(address, underlay.found.ifindex,
                            ground.host_ports.clients.all()))
    parts = [Part("tests of ways to other hosts", taking_part.start, taking_part.stop),
             Part("who asks for tests", lambda: _follow(ground, taking_part), nothing)]
    if ground.settings.etcd_endpoints_file:  # in a cluster of `slim cluster`
        newcomer = Newcomer(ground.me, ground.this_host.name, EtcdRounds(stores.kv), joined)
        parts.append(Part("test of a newcomer", newcomer.start, newcomer.stop))
    return parts


def _follow(ground: Ground, taking_part: TakingPart) -> None:
    ground.stores.feeds.follow(keys.ROUND, RoundListener(taking_part.asked))
