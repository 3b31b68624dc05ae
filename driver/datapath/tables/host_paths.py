"""Reads and writes the maps of blocked hosts, of unanswered SYNs, and of probes.

A host is blocked when SYNs of the host path do not get through to it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded, u16_be
from driver.errors import DatapathError
from driver.model import HostAddress
from driver.services.ports import ProbeFlow

CHUNK = 64  # entries per batch: the map is read four times a second, and is nearly always empty


class BlockedHosts:
    """services.ports.HostPaths: the maps `blocked_hosts` and `unanswered`."""

    def __init__(self, loaded: Loaded) -> None:
        self._blocked = loaded.table("blocked_hosts")
        self._unanswered = loaded.table("unanswered")
        self._hosts = loaded.hosts

    def block(self, hosts: Collection[HostAddress],
              patient: Collection[HostAddress] = ()) -> None:
        """See ports.HostPaths.  Entries that stay are not touched."""
        now_ns, waiting = time.monotonic_ns(), set(patient)
        wanted = {self._hosts.number(host): 0 if host in waiting else now_ns for host in hosts}
        there = {int(key): int(leaf) for key, leaf in bpf.entries(self._blocked, CHUNK)}
        for host in there.keys() - wanted.keys():
            with suppress(KeyError):
                del self._blocked[self._blocked.Key(host)]
        for host, since_ns in wanted.items():
            if host not in there or bool(there[host]) != bool(since_ns):
                _write(self._blocked, self._blocked.Key(host), self._blocked.Leaf(since_ns))

    def blocked(self) -> set[HostAddress]:
        """See ports.HostPaths."""
        found = (self._hosts.address(int(key)) for key, _ in bpf.entries(self._blocked, CHUNK))
        return {host for host in found if host is not None}

    def take_unanswered(self) -> set[tuple[HostAddress, int]]:
        """See ports.HostPaths."""
        found = [key for key, _ in bpf.entries(self._unanswered, CHUNK)]
        for key in found:
            with suppress(KeyError):
                del self._unanswered[key]
        named = ((self._hosts.address(int(key.underlay_be)), socket.ntohs(key.port_be))
                 for key in found)
        return {(host, port) for host, port in named if host is not None}


class Probes:
    """services.ports.ProbeTable: the map `probes`."""

    def __init__(self, loaded: Loaded) -> None:
        self._probes = loaded.table("probes")
        self._hosts = loaded.hosts
        self._flows = loaded.table("flows")

    def expect(self, flow: ProbeFlow, sequence: int) -> bool:
        """See ports.ProbeTable."""
        key = self._key(flow)
        if self._flows.get(self._flows.Key.from_buffer_copy(key)) is not None:
            return False
        leaf = self._probes.Leaf()
        leaf.ack_be = socket.htonl((sequence + 1) & 0xffffffff)
        _write(self._probes, key, leaf)
        return True

    def window(self, flow: ProbeFlow) -> int | None:
        """See ports.ProbeTable."""
        leaf = self._probes.get(self._key(flow))
        return socket.ntohs(leaf.window_be) if leaf is not None and leaf.answered else None

    def forget(self, flow: ProbeFlow) -> None:
        """See ports.ProbeTable."""
        with suppress(KeyError):
            del self._probes[self._key(flow)]

    def _key(self, flow: ProbeFlow) -> Any:
        key = self._probes.Key()
        key.peer_be = self._hosts.number(flow.host)
        key.peer_port_be, key.local_port_be = u16_be(flow.port), u16_be(flow.source_port)
        return key


def _write(table: Any, key: Any, leaf: Any) -> None:
    try:
        table[key] = leaf
    except DatapathError as error:
        raise DatapathError(f"cannot enter a peer into a kernel map: {error}") from error
