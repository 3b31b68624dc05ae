"""Looks single entries of the maps up, to say which way a connection would take.

It asks the maps what kernel/connect.c asks them.  It changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any, Final

from driver.datapath.loading.load import Loaded, u16_be, u32_be
from driver.datapath.tables.entries import address_key, address_of
from driver.datapath.tables.withheld import NOTE_IPV6_OPTIONS
from driver.model import Vni
from driver.services.ports import Address, Attachment, FlowName, Location

_ALL: Final = 0  # the share of all sandboxes together
_TASKS_MAX: Final = 256  # of a service's that are read
_CLAIMED: Final = 1  # enum flow_state


class MapLookups:
    """ports.Lookups."""

    def __init__(self, loaded: Loaded, reasons: Sequence[str]) -> None:
        """reasons: the counters' names, in the kernel's order."""
        self._table = loaded.table
        self._hosts = loaded.hosts
        self._reasons = reasons

    def attachments(self, cookie: int) -> tuple[Attachment, ...] | None:
        """See ports.Lookups."""
        entry = self._of("sandboxes", cookie)
        if entry is None:
            return None
        entry6 = self._of("sandboxes6", cookie)
        by_ipv6 = {} if entry6 is None else {
            int(each.vni): _interface6(each) for each in entry6.attachments[:entry6.count]}
        return tuple(
            Attachment(Vni(int(each.vni)), IPv4Interface(
                (address_of(each.addr_be), str(address_of(each.mask_be)))), u16_be(each.port_be),
                int(entry.ifindex), by_ipv6.get(int(each.vni)))
            for each in entry.attachments[:entry.count])

    def location(self, vni: Vni, address: Address) -> Location | None:
        """See ports.Lookups."""
        table = self._table("directory" if address.version == 4 else "directory6")
        found = table.get(address_key(table, vni, address))
        host = None if found is None else self._hosts.address(int(found.underlay_be))
        return None if found is None or host is None else Location(host, u16_be(found.port_be))

    def is_here(self, vni: Vni, address: Address) -> bool:
        """See ports.Lookups."""
        table = self._table("endpoints" if address.version == 4 else "endpoints6")
        return table.get(address_key(table, vni, address)) is not None

    def tasks(self, vni: Vni, address: IPv4Address) -> tuple[IPv4Address, ...] | None:
        """See ports.Lookups.  At most _TASKS_MAX of them."""
        services, backends = self._table("services"), self._table("backends")
        service = services.get(services.Key(vni, u32_be(address)))
        if service is None:
            return None
        found = [backends.get(backends.Key(vni, u32_be(address), service.generation, index))
                 for index in range(min(service.count, _TASKS_MAX))]
        return tuple(address_of(each.value) for each in found if each is not None)

    def endpoint_of(self, host: Address, port: int) -> tuple[Vni, IPv4Address] | None:
        """See ports.Lookups."""
        table = self._table("reverse")
        key = table.Key()
        number = self._hosts.find(host)
        if number is None:
            return None
        key.underlay_be, key.port_be = number, u16_be(port)
        found = table.get(key)
        return None if found is None else (Vni(int(found.vni)), address_of(found.addr_be))

    def withheld(self, cookie: int) -> str | None:
        """See ports.Lookups."""
        found = self._of("withheld", cookie)
        return None if found is None else self._reasons[found.value]

    def has_ipv6_options(self, cookie: int) -> bool:
        """See ports.Lookups."""
        found = self._of("notes", cookie)
        return found is not None and bool(found.what & NOTE_IPV6_OPTIONS)

    def share_used(self, cookie: int) -> bool:
        """See ports.Lookups."""
        own, every = self._of("shares", cookie), self._of("shares", _ALL)
        room = self._table("flows").max_entries - (every.value if every is not None else 0)
        return bool((own.value if own is not None else 0) >= room)

    def is_dead(self, host: Address) -> bool:
        """See ports.Lookups."""
        found = self._of("dead_hosts", self._hosts.number(host))
        return found is not None and time.monotonic_ns() < found.value

    def is_blocked(self, host: Address) -> bool:
        """See ports.Lookups."""
        return self._of("blocked_hosts", self._hosts.number(host)) is not None

    def age_s(self, flow: FlowName) -> float | None:
        """See ports.Lookups."""
        table = self._table("flows")
        key = table.Key()
        peer, key_port, own_port = flow
        number = self._hosts.find(peer)
        if number is None:
            return None
        key.peer_be, key.peer_port_be, key.local_port_be = (
            number, u16_be(key_port), u16_be(own_port))
        found = table.get(key)
        if found is None or found.state == _CLAIMED:
            return None
        return max(0.0, (time.monotonic_ns() - int(found.since_ns)) / 1e9)

    def _of(self, name: str, key: int) -> Any | None:
        table = self._table(name)
        return table.get(table.Key(key))


def _interface6(attachment: Any) -> IPv6Interface:
    prefix = bin(int.from_bytes(bytes(attachment.mask), "big")).count("1")
    return IPv6Interface((bytes(attachment.addr), prefix))
