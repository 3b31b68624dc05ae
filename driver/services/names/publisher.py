"""Puts on record what Docker calls this host's endpoints.

Nobody else names them: not a container, nor another host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from driver.model import Endpoint, EndpointId
from driver.services.names.spelling import spelled, usable
from driver.services.ports import ContainerNames, NamesView
from driver.work.ledger import Ledger
from driver.work.undo import Step, run_all

log = logging.getLogger(__name__)

SOON_S: Final = 0.02  # Docker tells several things of one container at once
# Docker says what has happened before its list has it, on a busy host by some tenths of a second.
AGAIN_S: Final = (0.4, 2.0)


class NamePublisher:
    """Looks at Docker when it is told to, and puts what has changed on record.  Thread-safe."""

    def __init__(self, names: ContainerNames, endpoints: Callable[[], Iterable[Endpoint]],
                 set_names: Callable[[EndpointId, tuple[str, ...]], None], ledger: Ledger,
                 has_names: Callable[[Endpoint], bool] = lambda _endpoint: True) -> None:
        """endpoints: this host's.  set_names: puts an endpoint's on record.

        has_names: says whether an endpoint's network has names.
        """
        self._names = names
        self._endpoints = endpoints
        self._set_names = set_names
        self._has_names = has_names
        self.view = NamesView((), {}, {})  # as of the last look
        self._page = ledger.page("names of endpoints:", self._act, called=lambda _pause_s: "all")

    def ask_soon(self) -> None:
        """Look soon, as something may have another name.  Returns at once."""
        for pause_s in (SOON_S, *AGAIN_S):
            self._page.put(pause_s, True, pause_s)

    def _act(self, pause_s: float, _true: bool) -> None:
        if pause_s == SOON_S:
            self._look()
        elif not self._page.get(SOON_S):  # one step alone is outstanding if Docker is away
            self._page.put(SOON_S, True)

    def _look(self) -> None:
        view = self._names.look()
        self.view = view
        found = {endpoint_id: _spelled(container.name, names) for container in view.containers
                 for endpoint_id, names in container.names.items()}
        steps: list[Step] = []
        for endpoint in self._endpoints():
            names = found.get(endpoint.id)
            if not self._has_names(endpoint):
                continue
            if names is None:  # Docker does not say yet that it runs, or not any more
                self._page.put(AGAIN_S[-1], True, AGAIN_S[-1])
            elif names != endpoint.names:
                steps.append((f"names of endpoint {endpoint.id[:12]}", self._step(endpoint, names)))
        run_all(steps)

    def _step(self, endpoint: Endpoint, names: tuple[str, ...]) -> Callable[[], None]:
        return lambda: self._set_names(endpoint.id, names)


def _spelled(own: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that can be asked for: the container's own, then the others in order."""
    return usable((own, *sorted(map(spelled, names))))
