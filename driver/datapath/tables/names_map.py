"""Says in the map `names_until` for how long containers' DNS queries go to slim's name server."""

from __future__ import annotations

import time
from typing import Any, Final

from driver.datapath.loading.load import Loaded

FOR_S: Final = 0.9  # a driver that dies is not asked any more after that


class NamesMap:
    """The map's one value.  For one thread."""

    def __init__(self, loaded: Loaded) -> None:
        self._table: Any = loaded.table("names_until")

    def renew(self, serving: bool) -> None:
        """Have queries come to us for a while (False: no more).  Error: DatapathError."""
        until_ns = time.monotonic_ns() + int(FOR_S * 1e9)
        self._table[self._table.Key(0)] = self._table.Leaf(until_ns if serving else 0)
