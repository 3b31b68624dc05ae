"""Pinned maps, looked at from outside the driver: in any host's bpf file system, without bpftool.

It knows none of the maps.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcc.libbcc import lib

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


def count_entries(fd: int) -> int:
    """Count the entries of a map that has no more than it was given: not an array."""
    count, key = 0, None
    following = ctypes.create_string_buffer(_KEY_BYTES)
    while lib.bpf_get_next_key(fd, key, following) == 0:
        key = ctypes.create_string_buffer(following.raw, _KEY_BYTES)
        count += 1
    return count
