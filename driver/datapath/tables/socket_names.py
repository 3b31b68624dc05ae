"""Reads what the programs keep with a socket, from copies of its storage: the names it shows.

kernel/names.c does the same in getsockname() and getpeername().
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded, u16_be
from driver.datapath.tables.entries import address_of
from driver.services.ports import Names, OpenSocket


class StoredNames:
    """ports.SocketNames on the maps `connections`, `connections6` and `chosen`."""

    def __init__(self, loaded: Loaded) -> None:
        """Error: DatapathError."""
        tables = [loaded.table(name) for name in ("connections", "connections6", "chosen")]
        self.descriptors = [table.map_fd for table in tables]
        self._hosts = loaded.hosts
        self._leaves = [(bpf.map_id(table), table.Leaf) for table in tables]

    def names(self, socket: OpenSocket) -> Names | None:
        """See ports.SocketNames."""
        connection, names6, _ = self._read(socket)
        if connection is None:
            return None
        local: IPv4Address | IPv6Address = address_of(connection.local_addr_be)
        peer: IPv4Address | IPv6Address = address_of(connection.peer_addr_be)
        if not connection.local_addr_be:
            if names6 is None:
                return None
            local, peer = IPv6Address(bytes(names6.local)), IPv6Address(bytes(names6.peer))
        flow = connection.flow
        host = self._hosts.address(int(flow.peer_be))
        if host is None:
            return None
        return Names(
            local, u16_be(connection.local_port_be) or socket.local_port, peer,
            u16_be(connection.peer_port_be) or socket.peer_port,
            (host, u16_be(flow.peer_port_be), u16_be(flow.local_port_be)),
            accepted=connection.local_port_be != 0)

    def called(self, socket: OpenSocket) -> IPv4Address | None:
        """See ports.SocketNames."""
        *_, choices = self._read(socket)
        if choices is None or not isinstance(socket.peer, IPv4Address):
            return None
        found = [slot for slot in choices.slots
                 if slot.service_be and address_of(slot.backend_be) == socket.peer]
        return address_of(max(found, key=lambda slot: int(slot.used)).service_be) if found else None

    def _read(self, socket: OpenSocket) -> list[Any]:
        return [leaf.from_buffer_copy(socket.storages[number]) if number in socket.storages
                else None for number, leaf in self._leaves]
