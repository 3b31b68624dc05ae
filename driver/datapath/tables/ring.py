"""Reads a ring of events (BPF_MAP_TYPE_RINGBUF) that the kernel's programs fill.

Only one process may read a ring.  What nobody has read stays in it, also for the next process.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
from typing import Any, Final

from driver.datapath.loading.libbpf import lib
from driver.errors import DatapathError

# Keeps Python's lock while libbpf hands us events, which never waits: else each event would have to
# take the lock anew.
_held: Final = ctypes.PyDLL(lib._name)
_SAMPLE: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_held.ring_buffer__new.restype = ctypes.c_void_p
_held.ring_buffer__new.argtypes = (ctypes.c_int, _SAMPLE, ctypes.c_void_p, ctypes.c_void_p)
_held.ring_buffer__consume.argtypes = (ctypes.c_void_p,)
_held.ring_buffer__free.argtypes = (ctypes.c_void_p,)
_held.ring_buffer__free.restype = None
_ENOUGH: Final = -1  # ends libbpf's walk; the event at hand counts as read


class Ring:
    """One ring.  For one thread, except for `wake`."""

    def __init__(self, map_fd: int) -> None:
        """Map it into memory.  Error: DatapathError."""
        self._taken: list[bytes] = []
        self._most = 0
        self._sample: Any = _SAMPLE(self._take_one)  # must live as long as the ring
        self._ring = _held.ring_buffer__new(map_fd, self._sample, None, None)
        if not self._ring:
            raise DatapathError(f"cannot read the ring of events: "
                                f"{os.strerror(ctypes.get_errno()) or 'no memory'}")
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Lock()  # a descriptor's number may be somebody else's once closed
        self._waiting = select.poll()
        for fd in (map_fd, self._woken):
            self._waiting.register(fd, select.POLLIN)

    def wait(self) -> None:
        """Sleep until there are events, or `wake` was called."""
        self._waiting.poll()

    def wake(self) -> None:
        """End `wait`, now and for ever."""
        with self._closing:
            if self._woken >= 0:
                os.eventfd_write(self._woken, 1)

    def take(self, most: int) -> list[bytes]:
        """Return up to `most` events, the oldest first, and make room for others in the ring."""
        self._most = most
        _held.ring_buffer__consume(self._ring)
        taken, self._taken = self._taken, []
        return taken

    def _take_one(self, _context: object, data: int, size: int) -> int:
        self._taken.append(ctypes.string_at(data, size))
        return 0 if len(self._taken) < self._most else _ENOUGH

    def close(self) -> None:
        """Unmap it; the kernel's ring stays.  Idempotent."""
        with self._closing:
            if self._woken >= 0:
                os.close(self._woken)
                self._woken = -1
        if self._ring:
            _held.ring_buffer__free(self._ring)
            self._ring = None
