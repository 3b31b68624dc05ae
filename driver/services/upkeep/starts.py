"""Starts containers that have a restart policy, and whose start failed while slim could not serve.

After a host's boot Docker tries once: if the driver was late, or etcd away, they would stay down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Final

from driver.errors import EngineUnavailable
from driver.model import NetworkId
from driver.services.ports import FailedStarts
from driver.work.ledger import Ledger

log = logging.getLogger(__name__)

# Between looks: at first, and as long as there is anybody; later.  A look costs Docker a request
# per container that does not run.
SOON_S: Final = 5.0
LATER_S: Final = 60.0
FIRST_S: Final = 300.0


class LateStarts:
    """Looks when it is told to; each start is repeated until it works.  Thread-safe."""

    def __init__(self, docker: FailedStarts, networks: Callable[[], Collection[NetworkId]],
                 ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        """networks: this host's.  clock: seconds, monotonic."""
        self._docker = docker
        self._networks = networks
        self._clock = clock
        self._began_s = clock()
        self._names: dict[str, str] = {}  # by container id
        self._page = ledger.page("start of container", self._start,
                                 called=lambda each: self._names.get(each, each[:12]))

    def interval_s(self) -> float:
        """Return the seconds until the next look."""
        early = self._clock() - self._began_s < FIRST_S
        return SOON_S if early or self._names else LATER_S

    def look(self) -> None:
        """Note who should run."""
        try:
            found = self._docker.failed(self._networks())
        except EngineUnavailable as error:  # it starts, say; what it is needed for says so
            log.debug("nobody is started now: %s", error)
            return
        for container_id in self._names.keys() - found.keys():
            self._page.drop(container_id)  # it runs, has gone, or is not to run any more
        self._names = found
        for container_id in found:
            if self._page.get(container_id) is None:
                self._page.put(container_id, True)

    def _start(self, container_id: str, _true: bool) -> None:
        self._docker.start(container_id)
