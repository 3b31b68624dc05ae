"""Watches etcd for the removal, by anybody, of records that this host has.

It reports that something is missing, or that removals may have been missed; whoever is told then
compares.  It ignores what this host itself removes, because the notes no longer have that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from driver.errors import SlimError
from driver.model import EndpointId, HostId, Network
from driver.store.feeds.feed import Feed
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.kv.protocol import Change, Entry

# Seconds after a removal: the removals of a wipe come together.
SETTLED_S: Final = 0.2


@dataclass(frozen=True)
class Own:
    """What this host has, according to its notes."""

    has_endpoint: Callable[[EndpointId], bool]
    networks: Callable[[], Iterable[Network]]
    has_pool: Callable[[str], bool]  # by its subnet (CIDR)
    has_address: Callable[[str, IPv4Address | IPv6Address], bool]  # subnet, address
    has_owner: Callable[[str, str], bool]  # subnet, name of the owner of an address


class OwnRecords:
    """A FeedListener that asks for a comparison when an own record is removed."""

    def __init__(self, feeds: Feeds, host: HostId, own: Own, ask: Callable[[float], None]) -> None:
        """ask: called with the seconds to wait before comparing."""
        self._feeds = feeds
        self._host = host
        self._own = own
        self._ask = ask
        self._feed: Feed | None = None

    def start(self) -> None:
        """Start the feed."""
        self._feed = self._feeds.follow(keys.ROOT, self, removals=True)

    def close(self) -> None:
        """End the feed."""
        if self._feed is not None:
            self._feed.close()

    def listed(self, entries: Sequence[Entry], revision: int) -> None:  # noqa: ARG002 - see `ask`
        """See FeedListener."""
        self._ask(0.0)

    def changed(self, changes: Sequence[Change]) -> None:
        """See FeedListener."""
        if any(self._is_missed(change.key) for change in changes):
            self._ask(SETTLED_S)

    def _is_missed(self, key: str) -> bool:
        try:
            return self._is_own(key)
        except ValueError:  # not a key of any driver
            return False
        except SlimError:  # the notes are not complete yet
            return True

    def _is_own(self, key: str) -> bool:
        own = self._own
        if key.startswith(keys.local_endpoints(self._host)):
            return own.has_endpoint(keys.local_endpoint_of(key))
        if key.startswith(keys.ENDPOINTS):
            return own.has_endpoint(keys.endpoint_of(key)[1])
        if key.startswith((keys.NETWORKS, keys.VNIS, keys.local_networks(self._host))):
            return any(key in (keys.network(each.key), keys.member(each.key, self._host),
                               keys.vni(each.vni), keys.local_network(self._host, each.id))
                       for each in own.networks())
        return self._is_allocation(key)

    def _is_allocation(self, key: str) -> bool:
        own = self._own
        if key.startswith(keys.ADDRESSES):
            return own.has_address(keys.subnet_of_address(key), keys.address_of(key))
        if key.startswith(keys.OWNERS):
            cidr, holder, name = keys.owner_of(key)
            return holder == self._host and own.has_owner(cidr, name)
        return key.startswith(keys.SUBNETS) and own.has_pool(keys.subnet_of(key))
