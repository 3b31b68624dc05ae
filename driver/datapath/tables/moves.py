"""Moves a sandbox's flows to another interface when the one that carried them leaves.

Python writes no flow entries: that would lose what the programs have written since the entry was
read.  The kernel's program move_flows changes the one field in place.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
from typing import Any

from driver.datapath.code.programs import MOVE_FLOWS
from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded

log = logging.getLogger(__name__)

MOVES = 256  # SLIM_MOVES: flows per run
WALKS = 4


class _Order(ctypes.Structure):
    """struct move_order in kernel/moves.c."""

    _fields_ = (("sandbox", ctypes.c_uint64), ("ifindex", ctypes.c_uint32),
                ("count", ctypes.c_uint32))


class FlowMover:
    """Changes the interfaces in the flow map."""

    def __init__(self, loaded: Loaded) -> None:
        self._flows = loaded.table("flows")
        self._program_fd = loaded.programs[MOVE_FLOWS.name]

    def move(self, cookie: int, ifindex: int) -> None:
        """Move all flows of the sandbox to this interface (host's end).

        The programs must know the interface already.  Error: DatapathError.
        """
        # Repeat until none is found: a program that started before it knew the interface may insert
        # another flow.  (The next packet out of the container corrects one that is missed.)
        for _ in range(WALKS):
            keys = [bytes(key) for key, leaf in bpf.entries(self._flows)
                    if leaf.sandbox == cookie and leaf.ifindex != ifindex]
            if not keys:
                return
            for some in _batches(keys):
                order = _Order(sandbox=cookie, ifindex=ifindex, count=len(some))
                bpf.run(self._program_fd, bytes(order) + b"".join(some))
        log.warning("connections of a container still come over an interface that leaves it")


def _batches(keys: list[bytes]) -> Any:
    following = iter(keys)
    return iter(lambda: list(itertools.islice(following, MOVES)), [])
