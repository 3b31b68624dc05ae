"""Defines a row of the tables: a packet, maps, and what must become of both.

Entries are written by the C structs' own field names; whatever is called ..._be is given as a
number or an address, and put into network order here.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from typing import Any

from driver.datapath.loading.table import Table


class Verdict(IntEnum):
    """Has the TC_ACT_... that the programs return, as in linux/pkt_cls.h."""

    OK = 0
    SHOT = 2
    STOLEN = 4  # each receiver has its own copy
    REDIRECT = 7


OK, SHOT, STOLEN, REDIRECT = Verdict


@dataclass(frozen=True)
class Ago:
    """A moment so many seconds before the program runs (CLOCK_MONOTONIC)."""

    seconds: float


Value = int | str | bytes | Ago


@dataclass(frozen=True)
class Entry:
    """One map entry; fields that are not named are 0, or not looked at where it is a result."""

    table: str
    key: Mapping[str, Value] | Value
    leaf: Mapping[str, Value] | Value


@dataclass(frozen=True)
class Case:
    """One row.  What is not said has to stay as it is: packet, counters, mark and maps."""

    why: str
    packet: bytes
    verdict: Verdict
    counts: str = ""  # counters that grow by one, with spaces between; all others stay
    after: bytes | None = None  # the packet, if it changes
    given: Sequence[Entry] = ()  # besides world.WORLD
    then: Sequence[Entry] = ()  # entries that are new or others afterwards
    copies: Sequence[tuple[str, bytes]] = ()  # whom flood() sent what, in order; see harness.Taps
    program: str = ""
    came_by: int = 0
    mark: int = 0
    marked: int = 0  # afterwards
    tunnel: tuple[int, str] | None = None  # VNI and outer source that it came with
    vlan: int = 0  # tag that the device has taken off
    cut: int = 0  # bytes of the packet that there are; 0: all


def _number(value: int | str | Ago, size: int, *, big: bool) -> int:
    if isinstance(value, Ago):
        return time.monotonic_ns() - int(value.seconds * 1e9)
    data = ip_address(value).packed if isinstance(value, str) else value.to_bytes(
        size, "big" if big else sys.byteorder)
    return int.from_bytes(data, sys.byteorder)


def struct_of(kind: Any, values: Mapping[str, Value] | Value) -> Any:
    """Make a map's key or value."""
    made = kind()
    if not isinstance(values, Mapping):
        assert not isinstance(values, bytes)
        made.value = _number(values, ctypes.sizeof(kind), big=False)
        return made
    for name, value in values.items():
        field = getattr(kind, name)
        if isinstance(value, str) and field.size == 16:
            value = ip_address(value).packed  # noqa: PLW2901 - the same in bytes
        if isinstance(value, bytes):
            ctypes.memmove(getattr(made, name), value, field.size)
        else:
            setattr(made, name, _number(value, field.size, big=name.endswith("_be")))
    return made


def put(table: Table, entry: Entry) -> tuple[bytes, bytes]:
    """Write the entry; return its bytes."""
    key, leaf = struct_of(table.Key, entry.key), struct_of(table.Leaf, entry.leaf)
    table[key] = leaf
    return bytes(key), bytes(leaf)


def matches(table: Table, entry: Entry, found: bytes | None) -> bool:
    """Tell whether an entry's value has all that is named."""
    if found is None:
        return False
    leaf, wanted = table.Leaf.from_buffer_copy(found), struct_of(table.Leaf, entry.leaf)
    if not isinstance(entry.leaf, Mapping):
        return bool(leaf.value == wanted.value)
    return all(_plain(getattr(leaf, name)) == _plain(getattr(wanted, name))
               for name in entry.leaf)


def _plain(value: Any) -> int | bytes:
    return value if isinstance(value, int) else bytes(value)
