"""Writes the maps of vips and of the tasks behind each.

A list is complete before it counts: programs read the list of the generation that `services` names.
The previous list stays for a while, for programs that have just read its generation.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded, u32_be
from driver.errors import DatapathError
from driver.model import Vni

Name = tuple[int, int]  # VNI, and the address (network order in memory)
KEPT_S: Final = 1.0  # for an outdated list; programs run for microseconds


class VipTable:
    """The maps `services` and `backends`.  Thread-safe."""

    def __init__(self, loaded: Loaded, clock: Callable[[], float] = time.monotonic) -> None:
        """Read what an earlier driver left; remove lists that `services` does not name.

        clock: seconds, monotonic.
        """
        self._clock = clock
        # Outdated lists, oldest first: outdated since (s), name, generation, length.
        self._outdated: deque[tuple[float, Name, int, int]] = deque()
        self._services = loaded.table("services")
        self._backends = loaded.table("backends")
        self._lock = threading.Lock()
        self._generations = {_name(key): int(leaf.generation)
                             for key, leaf in bpf.entries(self._services)}
        self._lists: dict[Name, list[int]] = {name: [] for name in self._generations}
        for key, leaf in list(bpf.entries(self._backends)):
            name = (int(key.vni), int(key.service_be))
            if self._generations.get(name) == key.generation:
                self._lists[name].append(int(leaf))
            else:
                self._delete(self._backends, key)

    def put(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]) -> None:
        """Make these the vip's backends.  Error: DatapathError; the list is then unchanged."""
        name = (vni, u32_be(address))
        wanted = [u32_be(backend) for backend in backends]
        with self._lock:
            self._sweep()
            if name in self._lists and sorted(self._lists[name]) == sorted(wanted):
                return  # an unchanged list keeps its generation: sockets stay with their choice
            before = self._generations.get(name, 0)
            generation = (before + 1) & 0xffffffff
            try:
                for index, backend in enumerate(wanted):
                    self._backends[self._backend_key(name, generation, index)] = (
                        self._backends.Leaf(backend))
                self._services[self._services.Key(*name)] = self._services.Leaf(
                    generation, len(wanted))
            except DatapathError as error:
                self._remove_list(name, generation, len(wanted))
                raise DatapathError(
                    f"cannot enter service address {address} into a kernel map: {error}") from error
            self._outdate(name, before, len(self._lists.get(name, ())))
            self._generations[name], self._lists[name] = generation, wanted

    def delete(self, vni: Vni, address: IPv4Address) -> None:
        """Undo put.  Does nothing if the vip is absent."""
        name = (vni, u32_be(address))
        with self._lock:
            self._delete(self._services, self._services.Key(*name))
            if name in self._lists:
                self._outdate(name, self._generations[name], len(self._lists.pop(name)))
            self._sweep()

    def sweep(self) -> None:
        """Remove lists that nobody reads any more.  Call it at intervals."""
        with self._lock:
            self._sweep()

    def names(self) -> Collection[tuple[Vni, IPv4Address]]:
        """Return network and address of all vips."""
        with self._lock:
            return [(Vni(vni), IPv4Address(address_be.to_bytes(4, sys.byteorder)))
                    for vni, address_be in self._lists]

    def is_empty(self) -> bool:
        """Tell whether there is no vip."""
        with self._lock:
            return not self._lists

    def _backend_key(self, name: Name, generation: int, index: int) -> Any:
        return self._backends.Key(*name, generation, index)

    def _outdate(self, name: Name, generation: int, count: int) -> None:
        self._outdated.append((self._clock(), name, generation, count))

    def _sweep(self) -> None:
        while self._outdated and self._clock() - self._outdated[0][0] >= KEPT_S:
            _, name, generation, count = self._outdated.popleft()
            self._remove_list(name, generation, count)
            # Kept until now: a new list must not reuse a generation that is still to be removed.
            if name not in self._lists and self._generations.get(name) == generation:
                del self._generations[name]

    def _remove_list(self, name: Name, generation: int, count: int) -> None:
        for index in range(count):
            self._delete(self._backends, self._backend_key(name, generation, index))

    @staticmethod
    def _delete(table: Any, key: Any) -> None:
        with suppress(KeyError):
            del table[key]


def _name(key: Any) -> Name:
    return int(key.vni), int(key.addr_be)
