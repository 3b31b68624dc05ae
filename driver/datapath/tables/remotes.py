"""Reads and writes the maps of all hosts' endpoints: `directory`, `reverse`, and those for IPv6."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded, u32_be
from driver.datapath.tables import entries
from driver.datapath.tables.writing import delete, endpoint_keys, write
from driver.model import Endpoint, Vni


class Remotes:
    """The directory in the kernel.  Thread-safe."""

    def __init__(self, loaded: Loaded) -> None:
        self._table = loaded.table
        self._hosts = loaded.hosts
        self._lock = threading.Lock()
        # Networks that `addresses6` may have entries of: the others are spared looking.
        self._with_ipv6 = {Vni(int(key.vni)) for key in loaded.table("addresses6")}

    def put(self, endpoint: Endpoint) -> None:
        """Enter an endpoint, into the reverse map first: a callee must know its caller."""
        with self._lock:
            underlay_be = self._hosts.number(endpoint.underlay)
            if endpoint.port and endpoint.address is not None:
                reverse, endpoints = self._table("reverse"), self._table("endpoints")
                write(reverse, entries.wire_name(reverse, endpoint, underlay_be),
                      _as(reverse.Leaf, entries.address_key(endpoints, endpoint.vni,
                                                            endpoint.address.ip)),
                      f"endpoint {endpoint.id[:12]}")
            self._put_address6(endpoint)
            for table, key in endpoint_keys(self._table, "directory", endpoint):
                write(table, key, entries.location(table, endpoint, underlay_be),
                      f"endpoint {endpoint.id[:12]}")

    def _put_address6(self, endpoint: Endpoint) -> None:
        """Enter by which IPv6 address its peers see an endpoint that calls them by IPv6."""
        if endpoint.address is None:
            return
        if endpoint.address6 is not None:  # whatever its port: SYNs may be under way
            self._with_ipv6.add(endpoint.vni)
            table = self._table("addresses6")
            write(table, entries.address_key(table, endpoint.vni, endpoint.address.ip),
                  entries.address6(table, endpoint.address6.ip), f"endpoint {endpoint.id[:12]}")
        else:
            self._delete_address6(endpoint.vni, endpoint.address.ip)

    def _delete_address6(self, vni: Vni, address: IPv4Address) -> None:
        if vni in self._with_ipv6:
            table = self._table("addresses6")
            delete(table, entries.address_key(table, vni, address))

    def delete(self, endpoint: Endpoint) -> None:
        """Undo put; entries that belong to another endpoint by now stay."""
        with self._lock:
            underlay_be = self._hosts.number(endpoint.underlay)
            for table, key in endpoint_keys(self._table, "directory", endpoint):
                found = table.get(key)
                if found is not None and entries.same(
                        found, entries.location(table, endpoint, underlay_be)):
                    delete(table, key)
                    if endpoint.address is not None and hasattr(key, "addr_be"):
                        self._delete_address6(endpoint.vni, endpoint.address.ip)
            if endpoint.port and endpoint.address is not None:
                reverse = self._table("reverse")
                name = entries.wire_name(reverse, endpoint, underlay_be)
                found = reverse.get(name)
                if (found is not None and found.vni == endpoint.vni
                        and found.addr_be == u32_be(endpoint.address.ip)):
                    delete(reverse, name)

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        """Tell whether `reverse` has another address for the endpoint's host and port."""
        if not endpoint.port or endpoint.address is None:
            return False
        reverse = self._table("reverse")
        found = reverse.get(entries.wire_name(
            reverse, endpoint, self._hosts.number(endpoint.underlay)))
        return found is not None and (int(found.vni), int(found.addr_be)) != (
            endpoint.vni, u32_be(endpoint.address.ip))

    def list(self) -> Iterator[Endpoint]:
        """Read the directory back, for a driver that takes over from an earlier one."""
        for name in ("directory", "directory6"):
            for key, leaf in bpf.entries(self._table(name)):
                underlay = self._hosts.address(int(leaf.underlay_be))
                if underlay is not None:  # else nothing can be sent there
                    yield entries.remote(key, leaf, underlay)


def _as(kind: Any, struct: Any) -> Any:
    """Copy the bytes: each map has its own ctypes class for the same C struct."""
    return kind.from_buffer_copy(struct)
