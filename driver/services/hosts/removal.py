"""Removes a gone host's endpoints and addresses, or everything that it had.

A repeated removal, even a concurrent one by another driver, continues with what is left.
"""

from __future__ import annotations

from driver.model import Removal
from driver.services.addresses.service import AddressService
from driver.services.ports import Endpoints, Networks


class HostRemoval:
    """Removes records of one host, which must not be this one."""

    def __init__(self, networks: Networks, endpoints: Endpoints, addresses: AddressService
                 ) -> None:
        """All three must be fresh and as that host's own driver would have them."""
        self._networks = networks
        self._endpoints = endpoints
        self._addresses = addresses

    def run(self, removal: Removal) -> None:
        """Remove each record, with what belongs to it, in its own transaction.

        Errors: StoreUnavailable, UnsupportedRecord; Conflict: somebody else has taken over.
        """
        # In the order of Docker's own calls.  Gateways are removed with their pools.
        for endpoint in self._endpoints.list():
            self._endpoints.delete(endpoint.id)
        for held in self._addresses.local_uses().held:
            self._addresses.withdraw_held(held)
        if removal is not Removal.EVERYTHING:
            return
        for requested in self._addresses.local_uses().requested:
            self._addresses.withdraw_requested(requested)
        for network in self._networks.list():
            self._networks.delete(network.id)
