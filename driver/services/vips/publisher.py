"""Publishes a swarm's vips on the one manager that holds the swarm's key in etcd.

If that manager stops or is cut off, what is published stays: another manager continues.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from driver.errors import Conflict, EngineUnavailable, StoreUnavailable
from driver.services.ports import Swarm, VipRecords

log = logging.getLogger(__name__)

NO_MANAGER_S: Final = 5.0  # until the next check whether this host has become a manager
CALM_S: Final = 0.5
CHANGING_S: Final = 0.1  # a stopping task is still chosen until the next look
PAUSES: Final = 9  # times the duration of a look, before the next: at most a tenth of a core


class VipPublisher:
    """Publishes vips.  `run` is to be called at the intervals that `pause_s` returns."""

    def __init__(self, swarm: Swarm, records: VipRecords,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, monotonic."""
        self._swarm = swarm
        self._records = records
        self._clock = clock
        self._pause_s = 0.0
        self._swarm_id = ""  # of the swarm that this host manages, as of the last look
        self._leads = False
        self._asked = True  # the last look at Docker went well
        # Called when this host begins to lead and when etcd has lost services: more may be lost.
        self.on_loss: Callable[[], None] = lambda: None

    def pause_s(self) -> float:
        """Return the seconds until the next `run`."""
        return self._pause_s

    def run(self) -> None:
        """Look once, and publish what has changed.  Error: StoreUnavailable."""
        begin_s = self._clock()
        if self._swarm_id and not self._leads:
            self._pause_s = CALM_S
            if not self._records.lead(self._swarm_id):
                return  # only one manager of a swarm asks Docker
        self._pause_s = NO_MANAGER_S
        try:
            view = self._swarm.look()
        except EngineUnavailable as error:
            log.log(logging.WARNING if self._asked else logging.DEBUG,
                    "services are published no more by this host: %s", error)
            self._asked, view = False, None
        else:
            self._asked = True
        if view is None:
            self._leave()
            return
        self._pause_s = CALM_S  # also if etcd fails now
        self._swarm_id = view.swarm_id
        led, self._leads = self._leads, self._records.lead(view.swarm_id)
        if self._leads:
            if not led:
                log.info("this manager publishes the swarm's services from now on")
            try:
                lost = self._records.publish(view.services)
                if lost or not led:
                    self.on_loss()
            except Conflict as error:
                log.warning("another manager publishes the swarm's services: %s", error)
                self._leads = False
            self._pause_s = CHANGING_S if view.changing else CALM_S
        self._pause_s = max(self._pause_s, PAUSES * (self._clock() - begin_s))

    def leads(self) -> str:
        """Return the id of the swarm whose services this manager publishes; "": none."""
        return self._swarm_id if self._leads else ""

    def stop(self) -> None:
        """Let another manager publish."""
        if self._leads:
            self._leave()

    def _leave(self) -> None:
        """Release the key in any case: it may be held although no look has succeeded since."""
        self._leads, self._swarm_id = False, ""
        try:
            self._records.resign()
        except StoreUnavailable as error:
            log.warning("another manager publishes services in some seconds: %s", error)

    def describe(self) -> str:
        """Say in a few words who publishes."""
        return "published by this manager" if self._leads else "published elsewhere"
