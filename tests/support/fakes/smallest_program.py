"""Loads a two-instruction sched_cls program without any compiler."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_BPF = 321  # the system call's number on x86-64
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_SCHED_CLS = 3
_ATTR_BYTES = 128


@contextmanager
def loaded(verdict: int = 0) -> Iterator[int]:
    """Load "r0 = verdict; exit" and yield its descriptor."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, verdict) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    program = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("<IIQQ", _BPF_PROG_TYPE_SCHED_CLS, 2, ctypes.addressof(program),
                             ctypes.addressof(licence))
    attributes = ctypes.create_string_buffer(attributes.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_BPF, _BPF_PROG_LOAD, attributes, _ATTR_BYTES)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "BPF_PROG_LOAD")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
