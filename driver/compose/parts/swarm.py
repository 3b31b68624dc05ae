"""Builds what a swarm's manager does for all hosts: publishes vips, and restores what etcd lost.

Every host has these parts; only the manager that holds the swarm's key in etcd acts.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from driver.compose.parts.addresses import AddressParts
from driver.compose.parts.ground import Ground
from driver.compose.parts.part import Part, nothing
from driver.engine.swarm import DockerSwarm, DockerSwarmUsers
from driver.services.swarm.holdings import SwarmHoldings
from driver.services.vips.publisher import VipPublisher
from driver.store.vips import EtcdVipRecords
from driver.work.repeater import Repeater


@dataclass(frozen=True)
class SwarmParts:
    """What reports the state, and what runs."""

    publishing: VipPublisher
    holdings: SwarmHoldings
    parts: tuple[Part, ...]


def build_swarm(ground: Ground, addresses: AddressParts) -> SwarmParts:
    """Build them; without Docker's socket nothing is asked."""
    settings = ground.settings
    swarm = DockerSwarm(settings.docker_socket)
    publishing = VipPublisher(swarm, EtcdVipRecords(ground.stores.fenced, ground.me))
    holdings = SwarmHoldings(
        book=addresses.book, users=DockerSwarmUsers(settings.docker_socket),
        leads=publishing.leads, release_pool=addresses.addresses.withdraw_swarm_request,
        request_id=lambda: secrets.token_hex(6), after_s=settings.collect_after)
    publishing.on_loss = holdings.ask
    repeating = Repeater("services", publishing.run, publishing.pause_s)
    return SwarmParts(publishing, holdings, (
        Part("Docker's swarm", nothing, swarm.close),
        Part("swarm holdings", holdings.start, holdings.stop),
        Part("publishing", nothing, publishing.stop),
        *([Part("publishing services", repeating.start, repeating.stop)]
          if settings.docker_socket else [])))
