"""Reads and fills pinned maps from outside, in any host's bpf file system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driver.datapath.loading import bpf
from driver.datapath.loading.libbpf import checked, lib
from driver.datapath.loading.table import Table

_KEY_BYTES = 64  # room for the key of any map of slim


@contextmanager
def opened(pin: Path) -> Iterator[int]:
    """Yield a descriptor of what is pinned.  Error: FileNotFoundError (nothing is)."""
    fd = int(lib.bpf_obj_get(str(pin).encode()))
    if fd < 0:
        raise FileNotFoundError(f"no BPF object is pinned at {pin}")
    try:
        yield fd
    finally:
        os.close(fd)


def contents(fd: int) -> dict[bytes, bytes]:
    """Return all entries of a map that has no more than it was given."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    info = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    key_bytes, value_bytes = int(info["key_size"]), int(info["value_size"])
    found, key = {}, None
    following = ctypes.create_string_buffer(key_bytes)
    value = ctypes.create_string_buffer(value_bytes)
    while lib.bpf_map_get_next_key(fd, key, following) == 0:
        key = ctypes.create_string_buffer(following.raw, key_bytes)
        if lib.bpf_map_lookup_elem(fd, key, value) == 0:  # else it went in this moment
            found[key.raw] = value.raw
    return found


def count_used(table: Table) -> int:
    """Count an array's entries that are not all zero."""
    used = 0
    for _, leaves, count in bpf.chunks(table):
        raw, size = bytes(leaves), ctypes.sizeof(table.Leaf)
        if raw.strip(b"\0"):  # most arrays are empty
            used += sum(any(raw[at * size:(at + 1) * size]) for at in range(count))
    return used


def enter_all(table: Table, keys: Any, leaves: Any) -> None:
    """Enter, or replace, as many as these ctypes arrays have."""
    count = ctypes.c_uint32(len(keys))
    checked(lib.bpf_map_update_batch(table.map_fd, keys, leaves, ctypes.byref(count), None),
            f"entering {len(keys)} into {table.name}")


def delete_all(table: Table, keys: Any) -> None:
    """Remove all of a ctypes array; each must be there."""
    count = ctypes.c_uint32(len(keys))
    checked(lib.bpf_map_delete_batch(table.map_fd, keys, ctypes.byref(count), None),
            f"deleting {len(keys)} from {table.name}")


def count_entries(fd: int) -> int:
    """Count the entries of a map that has no more than it was given: not an array."""
    count, key = 0, None
    following = ctypes.create_string_buffer(_KEY_BYTES)
    while lib.bpf_map_get_next_key(fd, key, following) == 0:
        key = ctypes.create_string_buffer(following.raw, _KEY_BYTES)
        count += 1
    return count
