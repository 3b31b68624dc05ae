"""Presents a kernel map to Python as a mapping of its C structs, as ctypes.

It calls libbpf with the map's descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Any

from driver.datapath.code.compiled import MapSpec
from driver.datapath.loading.libbpf import checked, lib
from driver.datapath.loading.struct_types import ctypes_class
from driver.errors import DatapathError

PERCPU_ARRAY = 6  # enum bpf_map_type


class Table:
    """One map.  Keys and values are instances of Key and Leaf; a leaf is a copy: write it back.

    A Leaf of a per-CPU array is an array with one element for each possible CPU.
    Methods raise DatapathError if the kernel refuses.
    """

    def __init__(self, fd: int, spec: MapSpec) -> None:
        self.name = spec.name
        self.map_fd = fd
        self.max_entries = spec.max_entries
        if spec.key is None:  # a ring of events: `map_fd` is all there is to it
            return
        self.Key = ctypes_class(spec.key, spec.key_size)
        self.Leaf = ctypes_class(spec.value, spec.value_size)
        if spec.type == PERCPU_ARRAY:
            if spec.value_size % 8:
                raise DatapathError(f"map {spec.name}: a CPU's values must be multiples of 8 bytes")
            self.Leaf *= checked(lib.libbpf_num_possible_cpus(), "counting the CPUs")

    def __getitem__(self, key: Any) -> Any:
        """Error: KeyError if it is not there."""
        leaf = self.Leaf()
        self._present(lib.bpf_map_lookup_elem(self.map_fd, ctypes.byref(key), ctypes.byref(leaf)))
        return leaf

    def get(self, key: Any) -> Any | None:
        """Return the value, None if there is none."""
        try:
            return self[key]
        except KeyError:
            return None

    def __setitem__(self, key: Any, leaf: Any) -> None:
        """Insert or replace an entry.  Error: DatapathError, for example if the map is full."""
        self._done(lib.bpf_map_update_elem(
            self.map_fd, ctypes.byref(key), ctypes.byref(leaf), ctypes.c_uint64(0)))

    def __delitem__(self, key: Any) -> None:
        """Error: KeyError if it is not there."""
        self._present(lib.bpf_map_delete_elem(self.map_fd, ctypes.byref(key)))

    def __iter__(self) -> Iterator[Any]:
        """Yield the keys.  If others change the map meanwhile, some may come twice or never."""
        before = None
        while True:
            key = self.Key()
            result = lib.bpf_map_get_next_key(
                self.map_fd, None if before is None else ctypes.byref(before), ctypes.byref(key))
            if result == -errno.ENOENT:
                return
            self._done(result)
            yield key
            before = self.Key.from_buffer_copy(key)

    def values(self) -> Iterator[Any]:
        """Yield the values of all keys, except entries removed meanwhile."""
        for key in self:
            leaf = self.get(key)
            if leaf is not None:
                yield leaf

    def __len__(self) -> int:
        """Count the entries, one by one."""
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Remove all entries."""
        for key in list(self):
            try:
                del self[key]
            except KeyError:
                continue

    def _present(self, result: int) -> None:
        if result == -errno.ENOENT:
            raise KeyError
        self._done(result)

    def _done(self, result: int) -> None:
        if result < 0:
            raise DatapathError(f"map {self.name}: {os.strerror(-result)}")
