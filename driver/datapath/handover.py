"""Takes over from a driver with another layout of maps, without interrupting connections.

The older programs keep using their maps until ours are filled: `flows` from the live sockets, here,
and the others from etcd, by the services as after any start.  Until then, whatever would replace
an older program is deferred.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from driver.datapath.loading.layout import Inheritance, discard
from driver.datapath.loading.load import Loaded, u16_be
from driver.datapath.tables.flows import OPEN, TIME_WAIT
from driver.errors import SlimError
from driver.model import HostAddress
from driver.services.ports import SandboxEntry

log = logging.getLogger(__name__)

LATE_S = 5.0  # for connect() calls that an older program was in when it was replaced
PATIENCE_S = 30.0  # for sandboxes that have not reappeared; then it continues without them


class LiveSocket(Protocol):
    """A TCP connection, by its names on the wire; driver.link.sandbox.live_sockets has it."""

    @property
    def local(self) -> HostAddress: ...
    @property
    def local_port(self) -> int: ...
    @property
    def peer(self) -> HostAddress: ...
    @property
    def peer_port(self) -> int: ...
    @property
    def cookie(self) -> int: ...
    @property
    def time_wait(self) -> bool: ...


WireName = tuple[int, int, int]  # peer_be, peer_port_be, local_port_be: struct flow_key
LiveSockets = Callable[[str], Iterable[LiveSocket]]  # by SandboxKey


class Handover:
    """Without an inheritance everything is done at once; else replacements wait for complete()."""

    def __init__(self, inheritance: Inheritance | None, live_sockets: LiveSockets,
                 underlay: HostAddress, clock: Callable[[], float] = time.monotonic) -> None:
        self._inheritance = inheritance
        self._live_sockets = live_sockets
        self._underlay = underlay
        self._clock = clock
        self._since_s = clock()
        self._lock = threading.RLock()
        self._held: list[Callable[[], None]] = []
        self._sandboxes: dict[int, tuple[SandboxEntry, str]] = {}  # by cookie, and its key
        # Flows by the sandbox's cookie: each flow's name and its socket's cookie.
        self._entered: dict[int, dict[WireName, int]] = {}
        self._late_until_s = 0.0
        if inheritance is not None:
            log.warning("the maps' layout is another one than in %s: %s made anew; its programs "
                        "go on until that is filled", inheritance.folder,
                        ", ".join(sorted(inheritance.changed)) or "nothing is")

    @property
    def pending(self) -> bool:
        """Whether the older programs are still attached."""
        return self._inheritance is not None

    def replace(self, act: Callable[[], None]) -> None:
        """Run `act`, which replaces an older program: now, or once all maps are filled."""
        with self._lock:
            if self.pending:
                self._held.append(act)
                return
        act()

    def adopt(self, entry: SandboxEntry, sandbox_key: str) -> None:
        """Note a sandbox that has its entries: its sockets may have flows."""
        with self._lock:
            if self.pending:
                self._sandboxes[entry.cookie] = entry, sandbox_key

    def ready(self, expected: Iterable[int]) -> bool:
        """Tell whether all sandboxes (cookies) of the host path are back, or PATIENCE_S is over.

        Call it after etcd has been read.
        """
        return set(expected) <= self._sandboxes.keys() or (
            self._clock() - self._since_s > PATIENCE_S)

    def complete(self, loaded: Loaded) -> None:
        """Fill `flows`, put our programs in place, and remove the older ones' pins."""
        with self._lock:
            if self._inheritance is None:
                return
            changed = "flows" in self._inheritance.changed
            if changed:
                self._fill_flows(loaded)
            for act in self._held:
                try:
                    act()
                except SlimError as error:  # its own caller's failure: the others go on
                    log.error("taking over: %s", error)
            if changed:  # connections that began or ended under the older programs meanwhile
                self._fill_flows(loaded)
            discard(self._inheritance)
            log.warning("taken over from %s, with %d connections read from sockets",
                        self._inheritance.folder, sum(map(len, self._entered.values())))
            self._inheritance = None
            self._held.clear()
            self._late_until_s = self._clock() + LATE_S
            if not changed:
                self._sandboxes.clear()

    def follow_up(self, loaded: Loaded) -> None:
        """After complete(), repeatedly: enter connections that had no socket to be seen yet.

        Their connect() had passed an older program, and had not come to the SYN.  It is sent again.
        """
        with self._lock:
            if self.pending or not self._sandboxes:
                return
            ends = self._clock() >= self._late_until_s
            self._fill_flows(loaded)
            if ends:
                self._sandboxes.clear()
                self._entered.clear()

    def _fill_flows(self, loaded: Loaded) -> None:
        """Insert each live socket's flow; remove those inserted before whose socket is gone now.

        Only the older programs saw their end, and they do not know our maps.
        """
        flows, reverse = loaded.table("flows"), loaded.table("reverse")
        for entry, sandbox_key in self._sandboxes.values():
            try:
                sockets = list(self._live_sockets(sandbox_key))
            except SlimError as error:
                log.log(logging.ERROR if self.pending else logging.DEBUG,  # it may have ended
                        "connections of sandbox %s are lost: %s", sandbox_key, error)
                continue
            before, live = self._entered.get(entry.cookie, {}), {}
            for socket in sockets:
                number = loaded.hosts.find(socket.peer)
                if socket.local != self._underlay or number is None:
                    continue
                name = number, u16_be(socket.peer_port), u16_be(socket.local_port)
                port = _endpoint_port(socket, name, entry, reverse)
                if port:
                    live[name] = socket, port
            for name in before.keys() - live.keys():
                if _holder(flows, name) == before[name]:
                    del flows[flows.Key(*name)]
            for name, (socket, port) in live.items():
                # Nobody's, or its own from before TIME_WAIT; any other is our programs', and newer.
                if _holder(flows, name) in {None, before.get(name)} - {socket.cookie}:
                    flows[flows.Key(*name)] = _flow(flows.Leaf(), socket, entry, port)
            self._entered[entry.cookie] = {name: socket.cookie
                                           for name, (socket, _) in live.items()}


def _endpoint_port(socket: LiveSocket, wire: WireName, entry: SandboxEntry, reverse: Any) -> int:
    """Return P of the connection's endpoint, 0: it is not on the host path."""
    own = {attachment.port for attachment in entry.attachments if attachment.port}
    if socket.local_port in own:
        return socket.local_port
    name = reverse.Key()
    name.underlay_be, name.port_be, _ = wire
    peer = reverse.get(name)
    if peer is None:  # the peer is gone: any port of ours keeps the connection alive
        return min(own, default=0)
    return next((attachment.port for attachment in entry.attachments
                 if attachment.vni == peer.vni), 0)


def _holder(flows: Any, name: WireName) -> int | None:
    """Return the cookie of the socket that owns the entry, None: there is no entry."""
    flow = flows.get(flows.Key(*name))
    return None if flow is None else int(flow.socket)


def _flow(leaf: Any, socket: LiveSocket, entry: SandboxEntry, port: int) -> Any:
    leaf.sandbox, leaf.socket = entry.cookie, socket.cookie
    leaf.since_ns = time.monotonic_ns()
    leaf.ifindex, leaf.port_be = entry.primary_ifindex, u16_be(port)
    leaf.state = TIME_WAIT if socket.time_wait else OPEN
    return leaf
