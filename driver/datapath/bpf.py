"""Owns the calls into libbpf that BCC's Python has no good face for: links, pins, batches.

libbcc is linked to libbpf, so both are reached through one handle.  Nothing here knows
slim's programs or maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bcc import lib

from driver.errors import DatapathError

_F_REPLACE = 4  # BPF_F_REPLACE


def _checked(result: int, what: str) -> int:
    """libbpf 1.x answers -errno; older calls answer -1 and set errno."""
    if result < 0:
        code = ctypes.get_errno() if result == -1 else -result
        raise DatapathError(f"{what}: {os.strerror(code)}")
    return result


def entries(table: Any, chunk: int = 4096) -> Iterator[tuple[Any, Any]]:
    """Yield all (key, leaf) of a BCC table (hash or array), `chunk` at a time.

    BCC's own items_lookup_batch() allocates for the map's maximum, tens of megabytes here.
    Entries that change meanwhile may be seen or not.  Error: DatapathError.
    """
    position = ctypes.c_uint32()
    first = True
    while True:
        keys, leaves = (table.Key * chunk)(), (table.Leaf * chunk)()
        count = ctypes.c_uint32(chunk)
        result = lib.bpf_lookup_batch(
            table.map_fd, None if first else ctypes.byref(position), ctypes.byref(position),
            keys, leaves, ctypes.byref(count))
        at_end = result < 0 and ctypes.get_errno() == errno.ENOENT
        if result < 0 and not at_end:
            raise DatapathError(f"reading map {table.map_id}: {os.strerror(ctypes.get_errno())}")
        yield from zip(keys[:count.value], leaves[:count.value], strict=True)
        if at_end or not count.value:
            return
        first = False


def insert(table: Any, key: Any, leaf: Any) -> bool:
    """Enter what is not there yet (BPF_NOEXIST); False: it is there, or the map is full."""
    return int(lib.bpf_update_elem(table.map_fd, ctypes.byref(key), ctypes.byref(leaf), 1)) == 0


class Link:
    """A bpf_link that is pinned: it outlives this process, and can be given another program."""

    def __init__(self, fd: int, pin: Path) -> None:
        self._fd = fd
        self.pin = pin

    @classmethod
    def attach(cls, program_fd: int, target_fd: int, attach_type: int, pin: Path) -> Link:
        """Attach to a cgroup or a network namespace, or replace what `pin` attaches there.

        A replaced program leaves no moment without one.  Error: DatapathError.
        """
        existing = lib.bpf_obj_get(str(pin).encode()) if pin.exists() else -1
        if existing >= 0:
            result = lib.bpf_link_update(existing, program_fd, None)
            if result == 0:
                return cls(existing, pin)
            # A link whose cgroup or namespace is gone cannot be updated (ENOLINK): start anew.
            os.close(existing)
            pin.unlink()
        fd = _checked(lib.bpf_link_create(program_fd, target_fd, attach_type, None),
                      f"attach {pin.name}")
        try:
            _checked(lib.bpf_obj_pin(fd, str(pin).encode()), f"pin {pin}")
        except DatapathError:
            os.close(fd)
            raise
        return cls(fd, pin)

    def close(self) -> None:
        """Let go of the descriptor; the program stays attached."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def detach(self) -> None:
        """Detach the program and remove the pin."""
        detach(self.pin)
        self.close()


def detach(pin: Path) -> None:
    """Detach the link that is pinned at `pin`, and remove the pin.  Absent: fine."""
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
    """Make it the device's only program of that type; it goes with the device.

    A program of before is replaced without a moment between.  False: the device is of a kind that
    takes none.  Error: DatapathError.
    """
    flags, count = ctypes.c_uint32(), ctypes.c_uint32(1)
    ids = (ctypes.c_uint32 * 1)()
    if lib.bpf_prog_query(ifindex, attach_type, 0, ctypes.byref(flags), ids,
                          ctypes.byref(count)) < 0:
        return False
    options = _AttachOptions(ctypes.sizeof(_AttachOptions), 0, 0)
    before = -1
    if count.value:
        before = _checked(lib.bpf_prog_get_fd_by_id(ids[0]), f"program {ids[0]}")
        options.flags, options.replace_prog_fd = _F_REPLACE, before
    try:
        _checked(lib.bpf_prog_attach_opts(program_fd, ifindex, attach_type,
                                          ctypes.byref(options)),
                 f"attach to interface {ifindex}")
    finally:
        if before >= 0:
            os.close(before)
    return True
