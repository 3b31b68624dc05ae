"""Works on existing kernel objects: attaches links, reads entries in batches, runs a program.

Nothing here knows slim's programs or maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driver.datapath.loading.libbpf import checked, lib
from driver.errors import DatapathError

_F_REPLACE = 4  # BPF_F_REPLACE
_NOEXIST = 1  # BPF_NOEXIST


def entries(table: Any, chunk: int = 4096) -> Iterator[tuple[Any, Any]]:
    """Yield all (key, leaf) of a table (hash or array), `chunk` at a time.

    Entries that change during the walk may or may not be seen.  Error: DatapathError.
    """
    for keys, leaves, count in chunks(table, chunk):
        yield from zip(keys[:count], leaves[:count], strict=True)


def chunks(table: Any, chunk: int = 4096) -> Iterator[tuple[Any, Any, int]]:
    """Yield ctypes arrays of keys and leaves, and how many elements are filled; see `entries`."""
    position = ctypes.c_uint32()
    first = True
    while True:
        keys, leaves = (table.Key * chunk)(), (table.Leaf * chunk)()
        count = ctypes.c_uint32(chunk)
        result = lib.bpf_map_lookup_batch(
            table.map_fd, None if first else ctypes.byref(position), ctypes.byref(position),
            keys, leaves, ctypes.byref(count), None)
        at_end = result == -errno.ENOENT
        if not at_end:
            checked(result, f"reading map {table.name}")
        yield keys, leaves, count.value
        if at_end or not count.value:
            return
        first = False


def insert(table: Any, key: Any, leaf: Any) -> bool:
    """Insert a new entry (BPF_NOEXIST); False: the key exists, or the map is full."""
    return int(lib.bpf_map_update_elem(table.map_fd, ctypes.byref(key), ctypes.byref(leaf),
                                       ctypes.c_uint64(_NOEXIST))) == 0


def take(table: Any, key: Any) -> Any | None:
    """Remove an entry and return its value at that moment, in one step; None: there is none."""
    leaf = table.Leaf()
    taken = lib.bpf_map_lookup_and_delete_elem(table.map_fd, ctypes.byref(key), ctypes.byref(leaf))
    if taken == -errno.ENOENT:
        return None
    checked(taken, f"taking an entry of map {table.name}")
    return leaf


def map_id(table: Any) -> int:
    """Return the kernel's id of a map: bytes 4 to 8 of struct bpf_map_info.  Error: DatapathError.
    """
    info = (ctypes.c_uint32 * 32)()
    length = ctypes.c_uint32(ctypes.sizeof(info))
    checked(lib.bpf_obj_get_info_by_fd(table.map_fd, ctypes.byref(info), ctypes.byref(length)),
            f"ask about map {table.name}")
    return int(info[1])


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1.1."""

    _fields_ = (("sz", ctypes.c_size_t), ("data_in", ctypes.c_char_p),
                ("data_out", ctypes.c_void_p), ("data_size_in", ctypes.c_uint32),
                ("data_size_out", ctypes.c_uint32), ("ctx_in", ctypes.c_void_p),
                ("ctx_out", ctypes.c_void_p), ("ctx_size_in", ctypes.c_uint32),
                ("ctx_size_out", ctypes.c_uint32), ("retval", ctypes.c_uint32),
                ("repeat", ctypes.c_int), ("duration", ctypes.c_uint32),
                ("flags", ctypes.c_uint32), ("cpu", ctypes.c_uint32),
                ("batch_size", ctypes.c_uint32))


def run(program_fd: int, data: bytes) -> None:
    """Run a tc program once, with `data` (14 bytes to 3 kB) as its packet.

    Error: DatapathError.
    """
    options = _TestRunOptions(sz=ctypes.sizeof(_TestRunOptions), data_in=data,
                              data_size_in=len(data))
    checked(lib.bpf_prog_test_run_opts(program_fd, ctypes.byref(options)), "run a program")


class Link:
    """A pinned bpf_link: it outlives this process, and its program can be replaced."""

    def __init__(self, fd: int, pin: Path) -> None:
        self._fd = fd
        self.pin = pin

    @classmethod
    def attach(cls, program_fd: int, target_fd: int, attach_type: int, pin: Path) -> Link:
        """Attach to a cgroup or a network namespace, or replace the program that `pin` attaches.

        Replacing is atomic: there is no moment without a program.  Error: DatapathError.
        """
        existing = lib.bpf_obj_get(str(pin).encode()) if pin.exists() else -1
        if existing >= 0:
            result = lib.bpf_link_update(existing, program_fd, None)
            if result == 0:
                return cls(existing, pin)
            # A link whose cgroup or namespace is gone cannot be updated (ENOLINK): start anew.
            os.close(existing)
            pin.unlink()
        fd = checked(lib.bpf_link_create(program_fd, target_fd, attach_type, None),
                      f"attach {pin.name}")
        try:
            checked(lib.bpf_obj_pin(fd, str(pin).encode()), f"pin {pin}")
        except DatapathError:
            os.close(fd)
            raise
        return cls(fd, pin)

    def close(self) -> None:
        """Close the descriptor; the program stays attached."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def detach(self) -> None:
        """Detach the program and remove the pin."""
        detach(self.pin)
        self.close()


def detach(pin: Path) -> None:
    """Detach the link pinned at `pin`, and remove the pin.  Does nothing if it is absent."""
    fd = lib.bpf_obj_get(str(pin).encode()) if pin.exists() else -1
    if fd >= 0:
        lib.bpf_link_detach(fd)
        os.close(fd)
    pin.unlink(missing_ok=True)


class _AttachOptions(ctypes.Structure):
    """struct bpf_prog_attach_opts of libbpf 1.1."""

    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint),
                ("replace_prog_fd", ctypes.c_int))


def attach_device(program_fd: int, ifindex: int, attach_type: int) -> bool:
    """Make it the device's only program of that type; it is detached when the device is removed.

    An earlier program is replaced atomically.  False: this kind of device takes no such program.
    Error: DatapathError.
    """
    flags, count = ctypes.c_uint32(), ctypes.c_uint32(1)
    ids = (ctypes.c_uint32 * 1)()
    if lib.bpf_prog_query(ifindex, attach_type, 0, ctypes.byref(flags), ids,
                          ctypes.byref(count)) < 0:
        return False
    options = _AttachOptions(ctypes.sizeof(_AttachOptions), 0, 0)
    before = -1
    if count.value:
        before = checked(lib.bpf_prog_get_fd_by_id(ids[0]), f"program {ids[0]}")
        options.flags, options.replace_prog_fd = _F_REPLACE, before
    try:
        checked(lib.bpf_prog_attach_opts(program_fd, ifindex, attach_type,
                                          ctypes.byref(options)),
                 f"attach to interface {ifindex}")
    finally:
        if before >= 0:
            os.close(before)
    return True


def netns_of(pin: Path) -> int:
    """Return the inode of the namespace that a pinned link is attached to; 0: it is gone.

    Linux 5.8: struct bpf_link_info has netns_ino at byte 16; it is cleared when the namespace ends.
    Error: DatapathError.
    """
    fd = checked(lib.bpf_obj_get(str(pin).encode()), f"open {pin}")
    try:
        info = (ctypes.c_uint32 * 16)()
        length = ctypes.c_uint32(ctypes.sizeof(info))
        checked(lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length)),
                 f"ask about {pin}")
        return int(info[4])
    finally:
        os.close(fd)
