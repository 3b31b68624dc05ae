"""Sweeps the flow map: removes entries whose socket or endpoint is gone.

The programs release flows themselves when sockets close.  What remains for the sweeper: expired
TIME_WAIT, claims whose SYN never left, flows of endpoints that are gone, and flows whose end no
program saw, because another program in the same hooks can switch the callback off.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded, u16_be
from driver.errors import SlimError

log = logging.getLogger(__name__)

CLAIMED, OPEN, TIME_WAIT = 1, 2, 3  # enum flow_state
# Twice the age at which connect() may take an entry over, so that none is swept meanwhile.
TIME_WAIT_NS = 2 * 60 * 10**9
CLAIM_NS = 2 * 5 * 10**9
REMOVAL_NS = 10 * 10**9  # a removal takes microseconds
INTERVAL_S = 30.0
# Open flows are compared with the existing sockets.
LOST_S = 60.0  # between two comparisons
LOST_NS = 60 * 10**9  # since it was opened: old enough that its socket is not just being created
# Pause before the next sweep, as a multiple of the last sweep's duration: containers that stop one
# after the other must not keep a core busy with a map full of others' connections.
PAUSES = 9
_ALL = 0  # the share of all sandboxes together; no namespace has this cookie


# struct flow_key: peer_be, peer_port_be, local_port_be.
Name = tuple[int, int, int]
# (sandbox cookie, its connections) -> those that no longer have a socket.
LostFlows = Callable[[int, Collection[Name]], Collection[Name]]


def none_lost(_cookie: int, _names: Collection[Name]) -> Collection[Name]:
    """Report no lost connections: for a host where nobody can tell."""
    return ()


class FlowSweeper:
    """A thread that sweeps at intervals, and soon after a request."""

    def __init__(self, loaded: Loaded, port_owners: Callable[[], dict[int, int]],
                 now_ns: Callable[[], int] = time.monotonic_ns,
                 lost: LostFlows = none_lost) -> None:
        """lost: called rarely, with all open connections of a sandbox; may raise SlimError."""
        self._lost = lost
        self._flows = loaded.table("flows")
        self._takeovers = loaded.table("takeovers")
        self._shares = loaded.table("shares")
        self._port_owners = port_owners
        self._now_ns = now_ns
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow-sweeper", daemon=True)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self) -> None:
        """Sweep soon: an endpoint is gone.  Several requests cause one sweep."""
        self._wake.set()

    def sweep(self) -> int:
        """Remove dead entries and return their number.  Reads the map in batches."""
        now = self._now_ns()  # before the owners: see _dead
        owners = self._port_owners()
        dead, alive = [], Counter[int]()
        for key, leaf in bpf.entries(self._flows):
            if self._dead(leaf, owners, now):
                dead.append(key)
            else:
                alive[leaf.sandbox] += 1
        self._end_removals(now)
        removed = 0
        for key in dead:
            gone, sandbox = self._remove(key, lambda leaf: self._dead(leaf, owners, now))
            removed += gone
            if sandbox is not None:
                alive[sandbox] += 1
        self._count_anew(alive)
        return removed

    def sweep_lost(self, older_ns: int = LOST_NS) -> int:
        """Remove open flows that have lost their socket; return their number.

        The next sweep recounts their shares.
        """
        before = self._now_ns() - older_ns
        open_since: dict[int, dict[Name, int]] = {}
        for key, leaf in bpf.entries(self._flows):
            if leaf.state == OPEN and leaf.since_ns < before:
                name = int(key.peer_be), int(key.peer_port_be), int(key.local_port_be)
                open_since.setdefault(int(leaf.sandbox), {})[name] = int(leaf.since_ns)
        removed = 0
        for sandbox, names in open_since.items():
            try:
                lost = self._lost(sandbox, names)
            except SlimError as error:
                log.info("a sandbox's sockets cannot be asked for: %s", error)
                continue
            for name in lost:
                still_open = partial(_still_open, names[name])
                removed += self._remove(self._flows.Key(*name), still_open)[0]
        if removed:
            log.info("%d connections had ended without a word: does another program of the hook"
                     " sockops set callback flags without regard for others'?", removed)
        return removed

    def _remove(self, key: Any, dead: Callable[[Any], bool]) -> tuple[bool, int | None]:
        """Remove the entry if it is still dead; return whether it was removed, else whose it is.

        No connect() can take it over between check and removal: see `takeovers`.
        """
        if not bpf.insert(self._takeovers, key, self._takeovers.Leaf(self._now_ns())):
            return False, None  # somebody else is removing and counting it
        try:
            leaf = self._flows[key]  # a new connection may own the entry by now
            if not dead(leaf):
                return False, int(leaf.sandbox)
            taken = bpf.take(self._flows, key)
            if taken is None or dead(taken):
                return taken is not None, None
            # Accepted at this very moment.  Nothing else inserts a tuple of an endpoint's port.
            bpf.insert(self._flows, key, taken)
            return False, int(taken.sandbox)
        except KeyError:
            return False, None
        finally:
            with suppress(KeyError):
                del self._takeovers[key]

    def _end_removals(self, now_ns: int) -> None:
        """End the removals of a driver that was killed during them."""
        for key, since in list(bpf.entries(self._takeovers)):
            if now_ns - int(since) > REMOVAL_NS:
                with suppress(KeyError):
                    del self._takeovers[key]

    def _count_anew(self, alive: Counter[int]) -> None:
        """Write each sandbox's share.

        Connections that open or close meanwhile are miscounted until the next sweep.
        """
        shares = {**alive, _ALL: alive.total()}
        for cookie in [int(key) for key, _ in bpf.entries(self._shares)]:
            if cookie not in shares:
                with suppress(KeyError):
                    del self._shares[self._shares.Key(cookie)]
        for sandbox, count in shares.items():
            self._shares[self._shares.Key(sandbox)] = self._shares.Leaf(count)

    @staticmethod
    def _dead(leaf: Any, owners: dict[int, int], now_ns: int) -> bool:
        """Tell whether an entry was dead at `now_ns`; a newer entry is not known to be dead.

        Reading the map takes long enough for a container to start and to connect.
        """
        if int(leaf.since_ns) >= now_ns:
            return False
        if owners.get(u16_be(leaf.port_be)) != leaf.sandbox:
            return True
        age_ns = now_ns - int(leaf.since_ns)
        return ((leaf.state == TIME_WAIT and age_ns > TIME_WAIT_NS)
                or (leaf.state == CLAIMED and age_ns > CLAIM_NS))

    def _run(self) -> None:
        compared_s = time.monotonic()
        while not self._stopping.is_set():
            self._wake.wait(INTERVAL_S)
            self._wake.clear()
            if self._stopping.is_set():
                return
            begin_s = time.monotonic()
            try:
                if begin_s - compared_s >= LOST_S:
                    compared_s = begin_s
                    self.sweep_lost()
                self.sweep()
            except Exception:
                log.exception("sweeping the flow map failed; it is tried again")
            self._stopping.wait(PAUSES * (time.monotonic() - begin_s))


def _still_open(since_ns: int, leaf: Any) -> bool:
    """Tell whether it is the same connection that was checked, and not a newer one."""
    return bool(leaf.state == OPEN and leaf.since_ns == since_ns)
