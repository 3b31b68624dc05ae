"""Keeps etcd's space in order: gives unused space back, and tells of alarms."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.model import Member
from driver.work.logs import STANDING

LOOK_S: Final = 60.0
WASTE_BYTES: Final = 128 << 20  # not given back below this
# What a person types; the words are those of `slim cluster tidy`.
NOSPACE: Final = ("etcd's space is used up (alarm NOSPACE), nothing new is written; what runs goes "
                  "on: type `slim cluster tidy` on a member")

log = logging.getLogger(__name__)


class Alarming(Protocol):
    """A store that can report its alarms."""

    def alarms(self) -> list[str]:
        """Return the names of the raised alarms, each once.  Error: StoreUnavailable."""


@dataclass
class Tidying:
    """Looks once a minute.  etcd compacts by itself; only defragmenting is left to others."""

    members: EtcdMembers
    store: Alarming
    clock: Callable[[], float] = time.monotonic
    _looked_s: float = field(default=float("-inf"))

    def act(self, members: tuple[Member, ...]) -> None:
        """Look, if it is time; defragment one member, this one (the leader) last.

        A member serves nobody while it does that, so one at a time.  Error: StoreUnavailable.
        """
        if self.clock() - self._looked_s < LOOK_S:
            return
        self._looked_s = self.clock()
        if "NOSPACE" in self.store.alarms():
            log.error(NOSPACE, extra=STANDING)
        health = self.members.health(members)
        for member in sorted(members, key=lambda each: each.id in (
                said.leader for said in health.values())):
            said = health.get(member.id)
            if said is None or said.bytes_allocated - said.bytes_used < max(
                    WASTE_BYTES, said.bytes_used):
                continue
            if len(health) == len(members):
                log.info("etcd's member at %s gives unused space back", member.address)
                self.members.defragment(member.client_urls[0])
            return
