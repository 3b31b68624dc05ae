"""Creates and deletes endpoints' links in parallel with dockerd's calls instead of within them.

A wish is put into the ledger, and a thread carries it out: the last wish counts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from driver.errors import LinkError, SlimError
from driver.model import Endpoint, EndpointId
from driver.services.ports import Links, Veth
from driver.work.ledger import Ledger, Page
from driver.work.locks import KeyedLocks

log = logging.getLogger(__name__)

# After Leave, dockerd still has removals of its own.  They need the lock that the kernel holds for
# 10 to 20 ms of our deletion, which nobody waits for.
DELETE_AFTER_S: Final = 0.3
THREADS: Final = 4  # while one waits for that lock, others can work


@dataclass(frozen=True)
class _Wish:
    """The desired state of a link; `mac` None: it shall be gone."""

    mac: bytes | None
    mtu: int  # bytes


_GONE: Final = _Wish(None, 0)


class Interiors(Protocol):
    """The part of ports.Sandboxes that this module needs."""

    def put_away(self, sandbox_key: str, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Sandboxes."""


class EndpointLinks:
    """The links of this host's endpoints.  Thread-safe."""

    def __init__(self, links: Links, sandboxes: Interiors, ledger: Ledger | None = None) -> None:
        """ledger: None: no link is created ahead, and links are deleted at once."""
        self._links = links
        self._sandboxes = sandboxes
        self._ahead = ledger is not None
        self._locks = KeyedLocks()  # by endpoint: one change of a link at a time
        self._wishes: Page[EndpointId, _Wish] = (ledger or Ledger()).page(
            "link of endpoint", lambda endpoint_id, _wish: self._work(endpoint_id),
            threads=THREADS, drain=True)
        self._ready: dict[EndpointId, tuple[_Wish, Veth]] = {}  # created ahead

    def find(self, endpoint_id: EndpointId) -> Veth | None:
        """Return the endpoint's link; None if there is none.  Error: LinkError."""
        return self._links.get_veth(endpoint_id)

    def prepare(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> None:
        """Have the link created while dockerd prepares to ask for it.  `mtu` in bytes."""
        if self._ahead:
            self._wishes.put(endpoint_id, _Wish(mac, mtu))

    def make(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        """Return the link; create it unless it exists.  Errors: LinkError, Conflict (busy)."""
        with self._locks.hold(endpoint_id):
            if self._wishes.drop(endpoint_id) is _GONE:
                self._links.delete_veth(endpoint_id)  # its inner end may still be put away
            wish, veth = self._ready.pop(endpoint_id, (None, None))
            if veth is not None and wish == _Wish(mac, mtu) and self.find(endpoint_id) == veth:
                return veth
            return self._links.create_veth(endpoint_id, mac, mtu)

    def delete(self, endpoint_id: EndpointId) -> None:
        """Delete the link now, if there is one.  Errors: LinkError, Conflict (busy).

        After an error it is deleted as soon as that can be done.
        """
        with self._wishes.attempt(endpoint_id, _GONE):
            self._work(endpoint_id)

    def retire(self, endpoint: Endpoint) -> None:
        """Put the link out of the sandbox's and dockerd's reach now, and have it deleted soon.

        Most containers that leave have stopped: their namespace deletes the link when it ends,
        while nobody waits.
        """
        delay_s = DELETE_AFTER_S
        with self._locks.hold(endpoint.id):
            veth = self.find(endpoint.id)
            if veth is not None and endpoint.sandbox_key and self._ahead:
                try:
                    self._sandboxes.put_away(endpoint.sandbox_key, endpoint, veth)
                except LinkError as error:
                    log.info("link of endpoint %.12s goes at once: %s", endpoint.id, error)
                    delay_s = 0.0
        self.delete_soon(endpoint.id, delay_s)

    def delete_soon(self, endpoint_id: EndpointId, delay_s: float = DELETE_AFTER_S) -> None:
        """Have the link deleted."""
        if self._ahead:
            self._wishes.put(endpoint_id, _GONE, delay_s)
        else:
            self.delete(endpoint_id)

    def _work(self, endpoint_id: EndpointId) -> None:
        """Carry out the last wish for the endpoint's link.  Errors: LinkError, Conflict (busy)."""
        with self._locks.hold(endpoint_id):
            wish = self._wishes.get(endpoint_id)
            if wish is None:
                return
            if wish.mac is None:
                self._ready.pop(endpoint_id, None)
                self._links.delete_veth(endpoint_id)
            else:
                self._make_ahead(endpoint_id, wish, wish.mac)

    def _make_ahead(self, endpoint_id: EndpointId, wish: _Wish, mac: bytes) -> None:
        try:
            self._ready[endpoint_id] = wish, self._links.create_veth(endpoint_id, mac, wish.mtu)
        except SlimError as error:  # Join creates it, or says why it cannot
            log.info("link of endpoint %.12s is not made ahead: %s", endpoint_id, error)
