"""Writes the map of gone hosts; connect() to such a host fails at once.

Entries expire by themselves: without a driver nobody would notice that a host has come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded
from driver.errors import DatapathError
from driver.model import HostAddress

LASTS_S = 60  # after the last `refuse`; far longer than the interval between calls


class DeadHosts:
    """The map `dead_hosts`."""

    def __init__(self, loaded: Loaded,
                 now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._table = loaded.table("dead_hosts")
        self._hosts = loaded.hosts
        self._now_ns = now_ns

    def refuse(self, hosts: Collection[HostAddress]) -> None:
        """Let connect() refuse exactly these hosts, for LASTS_S.

        Error: DatapathError.
        """
        until_ns = self._now_ns() + LASTS_S * 10**9
        try:
            wanted = {self._hosts.number(host) for host in hosts}
            for host in {int(key) for key, _ in bpf.entries(self._table)} - wanted:
                with suppress(KeyError):
                    del self._table[self._table.Key(host)]
            for host in wanted:
                self._table[self._table.Key(host)] = self._table.Leaf(until_ns)
        except DatapathError as error:
            raise DatapathError(f"cannot enter a dead host into a kernel map: {error}") from error
