"""Gives each host the 32 bits that stand for its address U in the maps: see struct location.

An IPv4 address stands for itself.  An IPv6 address has a number, which it keeps as long as the maps
exist: no number ever means another address.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from driver.datapath.loading.bpf import entries
from driver.errors import DatapathError
from driver.model import HostAddress

LAST: Final = (1 << 24) - 1  # 0.255.255.255; no host has an address below 1.0.0.0
_CHUNK: Final = 256  # entries per read


class HostNumbers:
    """The maps `hosts6` and `numbers6`.  Thread-safe; only one process writes them."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        """tables: by name.  Error: DatapathError."""
        self._hosts, self._numbers = tables["hosts6"], tables["numbers6"]
        self._lock = threading.Lock()
        self._by_address: dict[IPv6Address, int] = {}
        self._by_number: dict[int, IPv6Address] = {}
        for key, leaf in entries(self._hosts, _CHUNK):
            self._learn(IPv6Address(bytes(leaf)), int(key))
        for address, number in self._by_address.items():  # a driver may have died in between
            self._write_back(address, number)

    def number(self, address: HostAddress) -> int:
        """Return U as the maps have it, in network order; a new number for a new IPv6 address.

        Error: DatapathError, if there is no room.
        """
        if isinstance(address, IPv4Address):
            return _in_memory(int(address))
        with self._lock:
            known = self._by_address.get(address)
            if known is not None:
                return known
            latest = max((_counted(each) for each in self._by_number), default=0)
            if latest >= LAST:
                raise DatapathError("there is no number left for another host's IPv6 address")
            number = _in_memory(latest + 1)
            try:
                self._hosts[self._hosts.Key(number)] = _struct(self._hosts.Leaf, address)
                self._write_back(address, number)
            except DatapathError as error:
                raise DatapathError(
                    f"host {address} cannot be entered into a kernel map: {error}") from error
            self._learn(address, number)
            return number

    def find(self, address: HostAddress) -> int | None:
        """Return what `number` would, but never a new one: for addresses that sockets name.

        None: this host knows no host with that address.
        """
        if isinstance(address, IPv4Address):
            return _in_memory(int(address))
        return self._by_address.get(address)

    def address(self, number: int) -> HostAddress | None:
        """Inverse of `number`; None: no host has it."""
        known = self._by_number.get(number)
        if known is not None:
            return known
        return IPv4Address(_counted(number)) if _counted(number) > LAST else None

    def _learn(self, address: IPv6Address, number: int) -> None:
        self._by_address[address], self._by_number[number] = number, address

    def _write_back(self, address: IPv6Address, number: int) -> None:
        self._numbers[_struct(self._numbers.Key, address)] = self._numbers.Leaf(number)


def _struct(kind: Any, address: IPv6Address) -> Any:
    made = kind()
    ctypes.memmove(ctypes.byref(made), address.packed, len(address.packed))
    return made


def _in_memory(counted: int) -> int:
    """Return the integer whose bytes in memory are the given one in network order."""
    return int.from_bytes(counted.to_bytes(4), sys.byteorder)


def _counted(number: int) -> int:
    """Inverse of _in_memory."""
    return int.from_bytes(number.to_bytes(4, sys.byteorder))
