"""Writes and deletes single map entries, and names an endpoint's keys in the maps of both families.

entries.py has their content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from driver.datapath.tables import entries
from driver.errors import DatapathError
from driver.model import Endpoint


def delete(table: Any, key: Any) -> None:
    """Delete an entry, if it is there."""
    with suppress(KeyError):
        del table[key]


def write(table: Any, key: Any, leaf: Any, what: str) -> None:
    """Write an entry.  what: it is, for people.  Error: DatapathError."""
    try:
        table[key] = leaf
    except DatapathError as error:
        raise DatapathError(f"cannot enter {what} into a kernel map: {error}") from error


def endpoint_keys(table: Callable[[str], Any], name: str, endpoint: Endpoint
                  ) -> Iterator[tuple[Any, Any]]:
    """Yield a map and a key for each of the endpoint's addresses.

    table: finds a map.  name: of the map for IPv4; with a 6 behind it, that for IPv6.
    """
    if endpoint.address is not None:
        found = table(name)
        yield found, entries.address_key(found, endpoint.vni, endpoint.address.ip)
    if endpoint.address6 is not None:
        found = table(name + "6")
        yield found, entries.address_key(found, endpoint.vni, endpoint.address6.ip)
