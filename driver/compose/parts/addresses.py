"""Builds the IPAM: requests and releases pools and addresses, cluster-wide.

swarm_parts.py decides which of a swarm's are entered again when etcd has lost them.
"""

from __future__ import annotations

from dataclasses import dataclass

from driver.compose.parts.endpoints import EndpointParts
from driver.compose.parts.ground import Ground
from driver.ipam import pools
from driver.ipam.pools import Supernet
from driver.link.underlay.routed import routed_networks
from driver.services.addresses.holdings import Holdings
from driver.services.addresses.service import AddressService
from driver.settings import Settings
from driver.store.address_book import EtcdAddressBook


@dataclass(frozen=True)
class AddressParts:
    """The use cases, and this host's notes of its pools and addresses."""

    addresses: AddressService
    holdings: Holdings
    book: EtcdAddressBook


def build_addresses(ground: Ground, endpoints: EndpointParts) -> AddressParts:
    """Build them."""
    notes = ground.stores.notes
    holdings = Holdings(ground.me, notes.pools, notes.holds)
    book = EtcdAddressBook(ground.stores.recalling)
    return AddressParts(
        AddressService(
            book, ground.me, supernets=_supernets(ground.settings), routed=routed_networks,
            underlay=ground.underlay.found.address, holdings=holdings,
            ledger=ground.ledger,
            bury=lambda each: endpoints.endpoints.bury(each, endpoints.sandboxes.cookie),
            orphaned=endpoints.endpoints.orphaned),
        holdings, book)


def _supernets(settings: Settings) -> tuple[Supernet, ...]:
    return (pools.parse_supernet(str(settings.supernet), pools.POOL_PREFIXLEN),
            pools.parse_supernet(pools.SUPERNET6, pools.POOL6_PREFIXLEN))
