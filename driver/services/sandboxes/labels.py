"""Reads containers' labels from Docker when a new endpoint appears, until Docker surely knows it.

dockerd holds a container's lock while it starts the container, and shows its endpoints only when
it runs: so dockerd is asked later, several times.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from driver.errors import EngineUnavailable, InvalidArgument
from driver.model import EndpointId, HostPath
from driver.services import options as network_options
from driver.services.ports import Labels
from driver.work.later import Later

log = logging.getLogger(__name__)

FIRST_S: Final = 0.2  # the pause doubles each time
LAST_S: Final = 60.0  # no pause is longer: then the asking ends
_ALL: Final = "all"


class LabelReader:
    """Asks for labels and hands them on.  Thread-safe."""

    def __init__(self, labels: Labels, take: Callable[[Mapping[EndpointId, HostPath]], None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        """take: receives all readable labels each time."""
        self._labels = labels
        self._take = take
        self._guard = threading.Lock()
        self._pause_s = FIRST_S
        self._away = False
        self._refused: dict[EndpointId, str] = {}
        self._later: Later[str] = Later(self._ask, threads=1, name="labels", clock=clock)

    def start(self) -> None:
        """Start asking."""
        self._later.start()
        self._later.submit(_ALL)

    def stop(self) -> None:
        """Stop asking."""
        self._later.stop()

    def ask_soon(self) -> None:
        """Ask soon, as an endpoint is new.  Returns at once."""
        with self._guard:
            self._pause_s = FIRST_S
        self._later.submit(_ALL, FIRST_S)

    def _ask(self, _key: str) -> None:
        with self._guard:
            self._pause_s *= 2
            pause_s = self._pause_s
        if pause_s <= LAST_S:
            self._later.submit(_ALL, pause_s)
        try:
            found = self._labels.look()
        except EngineUnavailable as error:
            if not self._away:
                log.warning("labels of containers are not known: %s", error)
            self._away = True
            return
        self._away = False
        self._take({endpoint_id: choice for endpoint_id, text in found.items()
                    if (choice := self._read(endpoint_id, text)) is not None})
        self._refused = {each: text for each, text in self._refused.items() if each in found}

    def _read(self, endpoint_id: EndpointId, text: str) -> HostPath | None:
        try:
            return network_options.host_path(text, "label")
        except InvalidArgument as error:  # nobody can be told except by the log
            if self._refused.get(endpoint_id) != text:
                log.error("container of endpoint %.12s: %s; it counts as if it had none",
                          endpoint_id, error)
            self._refused[endpoint_id] = text
            return None
