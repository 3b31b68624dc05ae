"""Removes from etcd what a host has on record that is gone for good, or that a person names.

The use case is services/hosts/removal.py; here it gets its parts.
"""

from __future__ import annotations

from driver.model import Absence
from driver.services.addresses.service import AddressService
from driver.services.hosts.removal import HostRemoval
from driver.store.address_book import EtcdAddressBook
from driver.store.answers import EtcdAnswers
from driver.store.endpoints import EtcdEndpoints
from driver.store.format import keys, records
from driver.store.kv.conditional import ConditionalKeyValue
from driver.store.kv.protocol import KeyValue
from driver.store.networks import EtcdNetworks


def remove_records(kv: KeyValue, absence: Absence, *, speak: bool = False) -> None:
    """Remove what the absence names, as long as it is on record like this.

    speak: say in its place that all its endpoints are on record; not for the host itself, which
    may have some that it enters again.
    Errors: StoreUnavailable, UnsupportedRecord; Conflict: the host is back, or somebody else
    has finished.
    """
    conditional = ConditionalKeyValue(kv, keys.absent(absence.host), absence.version)
    networks = EtcdNetworks(conditional, absence.host)
    HostRemoval(networks, EtcdEndpoints(conditional, absence.host, networks), AddressService(
        EtcdAddressBook(conditional), absence.host, supernets=(), routed=tuple),
    ).run(absence.removal)
    if speak:
        # Whatever others still have of its endpoints, none is on record any more.
        known = conditional.get(keys.known(absence.host))
        EtcdAnswers(conditional, absence.host).say(
            conditional.range(keys.local_endpoints(absence.host), keys_only=True).revision,
            removed=records.decode(known, records.host).underlay if known is not None else None)
