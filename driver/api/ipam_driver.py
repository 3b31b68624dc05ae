"""Serves the calls of Docker's IpamDriver protocol: decodes, calls the service, encodes.

driver/services/addresses chooses and keeps the addresses.
"""

from __future__ import annotations

from driver.api import messages
from driver.api.messages import Answer
from driver.api.table import Call, with_request, without_request
from driver.services.ports import Addresses


class IpamDriver:
    """Serves Docker's calls about pools and addresses."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    def calls(self) -> dict[str, Call]:
        """Return all calls by the last part of their URL."""
        table = {
            "GetCapabilities": without_request(self.get_capabilities),
            "GetDefaultAddressSpaces": without_request(self.get_address_spaces),
            "RequestPool": with_request(messages.RequestPoolRequest.decode, self.request_pool),
            "ReleasePool": with_request(messages.PoolRequest.decode, self.release_pool),
            "RequestAddress": with_request(messages.AddressRequest.decode, self.request_address),
            "ReleaseAddress": with_request(messages.AddressRequest.decode_release,
                                           self.release_address),
        }
        return {f"IpamDriver.{name}": call for name, call in table.items()}

    def get_capabilities(self) -> Answer:
        """Ask for no replay: reservations are durable in etcd."""
        return messages.IPAM_CAPABILITIES

    def get_address_spaces(self) -> Answer:
        """Return two names: a swarm asks for the same pool in both."""
        return messages.ADDRESS_SPACES

    def request_pool(self, request: messages.RequestPoolRequest) -> Answer:
        """RequestPool."""
        subnet = self._addresses.request_pool(request.address_space, request.pool,
                                              request.sub_pool, v6=request.v6,
                                              options=request.options)
        return {"PoolID": subnet.pool_id, "Pool": subnet.subnet, "Data": {}}

    def release_pool(self, request: messages.PoolRequest) -> Answer:
        """ReleasePool."""
        self._addresses.release_pool(request.pool_id)
        return {}

    def request_address(self, request: messages.AddressRequest) -> Answer:
        """RequestAddress."""
        return messages.requested_address(self._addresses.request_address(
            request.pool_id, request.address, options=request.options))

    def release_address(self, request: messages.AddressRequest) -> Answer:
        """ReleaseAddress."""
        self._addresses.release_address(request.pool_id, request.address)
        return {}
