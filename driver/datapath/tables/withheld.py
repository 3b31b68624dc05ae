"""Writes the map of sandboxes that are kept off the host path, and reads the notes about them.

kernel/withheld.c has what the programs do with both.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.code.reasons import read_reasons
from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded
from driver.errors import DatapathError
from driver.services.ports import Why

# kernel/include/slim.h
NOTE_KEYS, NOTE_RULES, NOTE_BOUND_LISTENER, NOTE_IPV6_OPTIONS, NOTE_LISTENER_GROUP = 1, 2, 4, 8, 16
_NOTED = {NOTE_KEYS: Why.KEYS, NOTE_RULES: Why.OWN_RULES, NOTE_BOUND_LISTENER: Why.BOUND_LISTENER,
          NOTE_IPV6_OPTIONS: Why.IPV6_OPTIONS, NOTE_LISTENER_GROUP: Why.LISTENER_GROUP}
WITHHELD_LOOKING = 0x10000
KEPT_NOTES = 4096  # of namespaces that are no sandbox now: their container may rejoin a network


class WithheldMaps:
    """ports.Verdicts.  Notes are kept in the map only: a restarted driver finds them there."""

    def __init__(self, loaded: Loaded) -> None:
        self._withheld = loaded.table("withheld")
        self._notes = loaded.table("notes")
        self._numbers = {reason.name: number
                         for number, reason in enumerate(read_reasons(KERNEL_FOLDER))}

    def withhold(self, cookie: int, why: Why) -> None:
        """See ports.Verdicts."""
        try:
            self._withheld[self._withheld.Key(cookie)] = self._withheld.Leaf(self._numbers[why])
        except DatapathError as error:
            raise DatapathError(f"cannot keep a sandbox off the host path: {error}") from error

    def release(self, cookie: int) -> None:
        """See ports.Verdicts."""
        with suppress(KeyError):
            del self._withheld[self._withheld.Key(cookie)]

    def withheld(self) -> Collection[int]:
        """See ports.Verdicts."""
        return {int(key) for key, _ in bpf.entries(self._withheld)}

    def notes(self) -> Mapping[int, frozenset[Why]]:
        """See ports.Verdicts."""
        return {int(key): _read(leaf) for key, leaf in bpf.entries(self._notes)}

    def notes_of(self, cookie: int) -> frozenset[Why]:
        """See ports.Verdicts."""
        leaf = self._notes.get(self._notes.Key(cookie))
        return frozenset() if leaf is None else _read(leaf)

    def settle_rules(self, cookie: int) -> None:
        """See ports.Verdicts.

        The mark is in the entry that the verdict writes over or removes, so that it cannot outlive
        it; a driver that dies in between leaves it to the next one's verdict.  It is there before
        the note goes: at every moment one of the two says that a look is due.
        """
        if Why.OWN_RULES not in self.notes_of(cookie):
            return
        key, own_rules = self._withheld.Key(cookie), self._numbers[Why.OWN_RULES]
        found, looking = self._withheld.get(key), self._withheld.Leaf(own_rules | WITHHELD_LOOKING)
        if found is None:  # the program is about to enter it, and must find it so; else it is full
            bpf.insert(self._withheld, key, looking)
        elif found.value == own_rules:
            self._withheld[key] = looking
        self._rewrite(cookie, without=NOTE_RULES)

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None:
        """See ports.Datapath: does what kernel/withheld.c does for listeners that it sees."""
        for wanted, bit in ((bound, NOTE_BOUND_LISTENER), (keyed, NOTE_KEYS)):
            if wanted:
                self._rewrite(cookie, what=bit)
                key = self._withheld.Key(cookie)
                # An earlier writer has decided the same.
                if (not bpf.insert(self._withheld, key, self._withheld.Leaf(
                        self._numbers[_NOTED[bit]])) and self._withheld.get(key) is None):
                    raise _full("the sandboxes that are kept off the host path")

    def _rewrite(self, cookie: int, what: int = 0, without: int = 0) -> None:
        """Enter a note with the bits `what` and those that it already has, except `without`.

        The programs set bits at any moment.  So the entry is taken out as a whole, and the new one
        is inserted only if no program has inserted another one meanwhile.
        """
        key, since_ns = self._notes.Key(cookie), time.monotonic_ns()
        while True:
            taken = bpf.take(self._notes, key)
            if taken is not None:
                what |= taken.what & ~without
                since_ns = taken.since_ns
            if not what:
                return
            if bpf.insert(self._notes, key, self._notes.Leaf(since_ns, what)):
                return
            if taken is None and self._notes.get(key) is None:
                raise _full("the notes of sandboxes")

    def forget_notes(self, keep: Collection[int]) -> None:
        """See ports.Verdicts."""
        strangers = sorted((leaf.since_ns, int(key))
                           for key, leaf in bpf.entries(self._notes) if int(key) not in keep)
        for _, cookie in strangers[:max(0, len(strangers) - KEPT_NOTES)]:
            with suppress(KeyError):
                del self._notes[self._notes.Key(cookie)]


def _full(what: str) -> DatapathError:
    return DatapathError(f"the kernel's map of {what} is full")


def _read(leaf: Any) -> frozenset[Why]:
    return frozenset(why for bit, why in _NOTED.items() if leaf.what & bit)
