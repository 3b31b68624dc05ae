"""Implements ports.Events on the maps `events`, `watch` and the C type of an event."""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Any, Final

from driver.datapath.loading.load import Loaded, u16_be
from driver.datapath.tables.entries import address_of
from driver.datapath.tables.ring import Ring
from driver.model import Vni
from driver.services.ports import Address, Ending, Event, EventKind

_KINDS: Final = {1: EventKind.CONNECT, 2: EventKind.ACCEPT, 3: EventKind.CLOSE,
                 4: EventKind.FAILED, 5: EventKind.REFUSED}  # enum event_kind
_REFUSED: Final = 5
_UNTIL, _SANDBOX, _LOST = range(3)  # WATCH_... in kernel/include/slim.h
# enum bpf_tcp_state: what a connection has left when it ended.
_SYN_SENT, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING = 2, 4, 5, 8, 9, 11
_OUR_FIN_COUNTS: Final = (_FIN_WAIT2, _LAST_ACK, _CLOSING)
_PEERS_FIN_COUNTS: Final = (_CLOSE_WAIT, _LAST_ACK, _CLOSING)
_ENDINGS: Final = {_FIN_WAIT1: Ending.HERE, _FIN_WAIT2: Ending.HERE, _CLOSING: Ending.HERE,
                   _LAST_ACK: Ending.PEER}


class KernelEvents:
    """ports.Events.  `wake` and `watch` may be called by other threads than the reader's."""

    def __init__(self, loaded: Loaded, reasons: Sequence[str]) -> None:
        """reasons: the counters' names, in the kernel's order.  Error: DatapathError."""
        self._hosts = loaded.hosts
        self._reasons = reasons
        self._form: Any = loaded.table("watched").Leaf  # struct event
        self._kind_at: int = self._form.kind.offset
        self._watch: Any = loaded.table("watch")
        self._ring = Ring(loaded.table("events").map_fd)

    def wait(self) -> None:
        """See ports.Events."""
        self._ring.wait()

    def wake(self) -> None:
        """See ports.Events."""
        self._ring.wake()

    def take(self, most: int) -> Sequence[bytes]:
        """See ports.Events."""
        return self._ring.take(most)

    def close(self) -> None:
        """Read no more events."""
        self._ring.close()

    def is_refusal(self, raw: bytes) -> bool:
        """See ports.Events."""
        return raw[self._kind_at] == _REFUSED

    def lost(self) -> int:
        """See ports.Events."""
        return int(self._watch[self._watch.Key(_LOST)].value)

    def watch(self, for_s: float, cookie: int = 0) -> None:
        """See ports.Events."""
        until_ns = time.monotonic_ns() + int(for_s * 1e9) if for_s else 0
        for key, value in ((_SANDBOX, cookie), (_UNTIL, until_ns)):
            self._watch[self._watch.Key(key)] = self._watch.Leaf(value)

    def read(self, raw: bytes) -> Event:
        """See ports.Events."""
        seen = self._form.from_buffer_copy(raw)
        before = int(seen.before)
        sent, received = _payload(seen, before)
        local = _address(seen.local)
        return Event(
            at_ns=int(seen.at_ns), kind=_KINDS[seen.kind], reason=self._reasons[seen.reason],
            inbound=bool(seen.inbound), vni=Vni(int(seen.vni)) if seen.vni else None,
            local=None if local.is_unspecified else local,
            local_port=u16_be(seen.local_port_be), peer=_address(seen.peer),
            peer_port=u16_be(seen.peer_port_be),
            host=self._hosts.address(int(seen.host_be)) if seen.host_be else None,
            task=address_of(seen.task_be) if seen.task_be else None, times=int(seen.times),
            lasted_ns=int(seen.lasted_ns), received_bytes=received, sent_bytes=sent,
            ending=_ENDINGS.get(before, Ending.RESET) if seen.kind == 3 else Ending.NOT,
            socket=int(seen.socket))


def _payload(seen: Any, before: int) -> tuple[int, int]:
    """Return the bytes that were sent and received, without the ones of SYN and FIN.

    Of a connection that the container has closed first, the peer's FIN may be among those received:
    the kernel does not say whether it has come.
    """
    syn = not seen.inbound and before not in (0, _SYN_SENT)
    sent = int(seen.bytes_out) - syn - (before in _OUR_FIN_COUNTS)
    received = int(seen.bytes_in) - (before in _PEERS_FIN_COUNTS)
    return max(0, sent), max(0, received)


def _address(words: Any) -> Address:
    found = IPv6Address(bytes(words))
    return found.ipv4_mapped or found
