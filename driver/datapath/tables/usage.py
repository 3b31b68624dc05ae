"""Counts the entries of kernel maps, as far as that is cheap.

Maps that grow with this host's containers are counted in batches; of the connections the programs
keep a count.
"""

from __future__ import annotations

from typing import Any, Final

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded

_OF_CONTAINERS: Final = ("sandboxes", "veths", "endpoints")
_ALL_FLOWS: Final = 0  # the key of `shares` that has the count of all (kernel/shares.c)


def usage(loaded: Loaded) -> dict[str, tuple[int, int]]:
    """Return map -> entries, and room for entries.  Error: DatapathError."""
    found = {name: (_count(table), int(table.max_entries))
             for name, table in ((name, loaded.table(name)) for name in _OF_CONTAINERS)}
    shares: Any = loaded.table("shares")
    flows = shares.get(shares.Key(_ALL_FLOWS))
    found["flows"] = (max(0, int(flows.value)) if flows is not None else 0,
                      int(loaded.table("flows").max_entries))
    return found


def _count(table: Any) -> int:
    return sum(count for _, _, count in bpf.chunks(table))
