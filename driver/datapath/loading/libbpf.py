"""Loads libbpf 1.x, which has no Python bindings of its own, and checks its calls for errors.

BCC's library is linked to the same libbpf, but brings a compiler along, which only compiling needs.
"""

from __future__ import annotations

import ctypes
import os

from driver.errors import DatapathError

_NAME = "libbpf.so.1"

try:
    lib = ctypes.CDLL(_NAME, use_errno=True)
except OSError as error:
    raise DatapathError(f"{_NAME} is missing, on which BCC depends: apt-get install python3-bpfcc"
                        ) from error


def checked(result: int, what: str) -> int:
    """Return a result that is not negative; libbpf 1.x returns -errno.  Error: DatapathError."""
    if result < 0:
        raise DatapathError(f"{what}: {os.strerror(-result)}")
    return result
