"""Removes from etcd the records of a host that is gone for good, or that a person names.

The use case is in services/hosts/removal.py; this module builds its parts.
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
    """Remove what the absence names, as long as the recorded absence is unchanged.

    speak: answer in the host's place that all its endpoints are on record; not for the host
    itself, which may have endpoints that it enters again.
    Errors: StoreUnavailable, UnsupportedRecord; Conflict: the host is back, or another driver
    has finished.
    """
    conditional = ConditionalKeyValue(kv, keys.absent(absence.host), absence.version)
    networks = EtcdNetworks(conditional, absence.host)
    HostRemoval(networks, EtcdEndpoints(conditional, absence.host, networks), AddressService(
        EtcdAddressBook(conditional), absence.host, supernets=(), routed=tuple),
    ).run(absence.removal)
    if speak:
        # No endpoint of the host is on record any more, whatever others still have of them.
        known = conditional.get(keys.known(absence.host))
        EtcdAnswers(conditional, absence.host).say(
            conditional.range(keys.local_endpoints(absence.host), keys_only=True).revision,
            removed=records.decode(known, records.host).underlay if known is not None else None)
