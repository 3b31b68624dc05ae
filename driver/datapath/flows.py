"""Owns the sweeping of the flow map: entries whose socket or endpoint is no more.

The programs release flows themselves when sockets close; what is left for here is TIME_WAIT
that ran out, claims whose SYN never left, flows of endpoints that are gone, and those whose end no
program has seen: another one in the same hooks can switch the callback off.
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

from driver.datapath import bpf
from driver.datapath.load import Loaded, u16_be
from driver.errors import SlimError

log = logging.getLogger(__name__)

CLAIMED, OPEN, TIME_WAIT = 1, 2, 3  # enum flow_state
# Twice what a claim takes over after, so that no entry is swept while it is taken over.
TIME_WAIT_NS = 2 * 60 * 10**9
CLAIM_NS = 2 * 5 * 10**9
REMOVAL_NS = 10 * 10**9  # a removal takes microseconds
INTERVAL_S = 30.0
# Open flows are compared with the sockets that there are.
LOST_S = 60.0  # between two times
LOST_NS = 60 * 10**9  # since it was opened: so old that its socket is not just being made
# Of the time that a sweep took, before the next one: containers that stop one after the other
# shall not keep a core busy with a map full of others' connections.
PAUSES = 9
_ALL = 0  # the share of all sandboxes together; no namespace has this cookie


# struct flow_key: peer_be, peer_port_be, local_port_be.
Name = tuple[int, int, int]
# Of a sandbox (cookie): those of its connections that have no socket any more.
LostFlows = Callable[[int, Collection[Name]], Collection[Name]]


def none_lost(_cookie: int, _names: Collection[Name]) -> Collection[Name]:
    """For a host of which nobody can tell."""
    return ()


class FlowSweeper:
    """A thread that sweeps at intervals, and soon after it was asked to."""

    def __init__(self, loaded: Loaded, port_owners: Callable[[], dict[int, int]],
                 now_ns: Callable[[], int] = time.monotonic_ns,
                 lost: LostFlows = none_lost) -> None:
        """lost: asked rarely, with all open connections of a sandbox.  Error: SlimError."""
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
        """Sweep soon: an endpoint has gone.  Many askings make one sweep."""
        self._wake.set()

    def sweep(self) -> int:
        """Remove dead entries; return how many.  Reads the map in batches."""
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
        """Remove open flows that have lost their socket; return how many.

        Their shares are counted anew by the next sweep.
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
        """Remove the entry if it still is dead; return whether, and whose it is if it is not.

        No connect() takes it over between the judgement and the removal: see `takeovers`.
        """
        if not bpf.insert(self._takeovers, key, self._takeovers.Leaf(self._now_ns())):
            return False, None  # somebody else removes it, and counts it
        try:
            leaf = self._flows[key]  # a new connection may have taken the entry over
            if not dead(leaf):
                return False, int(leaf.sandbox)
            taken = bpf.take(self._flows, key)
            if taken is None or dead(taken):
                return taken is not None, None
            # Accepted in this very moment.  Nothing else enters a tuple of an endpoint's port.
            bpf.insert(self._flows, key, taken)
            return False, int(taken.sandbox)
        except KeyError:
            return False, None
        finally:
            with suppress(KeyError):
                del self._takeovers[key]

    def _end_removals(self, now_ns: int) -> None:
        """End those of a driver that was killed in the middle."""
        for key, since in list(bpf.entries(self._takeovers)):
            if now_ns - int(since) > REMOVAL_NS:
                with suppress(KeyError):
                    del self._takeovers[key]

    def _count_anew(self, alive: Counter[int]) -> None:
        """Write what each sandbox's share is.

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
        """Judge an entry by what was known at `now_ns`: what is newer, is not known to be dead.

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
    """Whether it is the same connection: what was judged, and nothing newer."""
    return bool(leaf.state == OPEN and leaf.since_ns == since_ns)
