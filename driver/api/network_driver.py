"""Serves the calls of Docker's NetworkDriver protocol: decodes, calls a service, encodes.

Some calls need no service: slim gives no gateway, and hosts find each other in etcd.
"""

from __future__ import annotations

from driver.api import codec, messages
from driver.api.messages import Answer
from driver.api.table import Call, with_request, without_request
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.networks.lifecycle import NetworkService
from driver.services.ports import Addresses


class NetworkDriver:
    """Serves Docker's calls about networks and endpoints."""

    def __init__(self, networks: NetworkService, endpoints: EndpointService,
                 addresses: Addresses, scope: str) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._addresses = addresses
        self._scope = scope  # settings.SCOPES

    def calls(self) -> dict[str, Call]:
        """Return all calls by the last part of their URL."""
        endpoint = messages.EndpointCall.decode
        network = messages.NetworkRequest.decode
        table = {
            "GetCapabilities": without_request(self.get_capabilities),
            "GwAllocCheck": with_request(codec.Fields.itself, self.check_gateway),
            "CreateNetwork": with_request(messages.CreateNetworkRequest.decode,
                                          self.create_network),
            "DeleteNetwork": with_request(network, self.delete_network),
            "AllocateNetwork": with_request(messages.AllocateNetworkRequest.decode,
                                            self.allocate_network),
            "FreeNetwork": with_request(network, self.free_network),
            "CreateEndpoint": with_request(messages.CreateEndpointRequest.decode,
                                           self.create_endpoint),
            "DeleteEndpoint": with_request(endpoint, self.delete_endpoint),
            "EndpointOperInfo": with_request(endpoint, self.describe_endpoint),
            "Join": with_request(messages.JoinRequest.decode, self.join),
            "Leave": with_request(endpoint, self.leave),
            # Never sent to a driver without a gateway; docker_gwbridge has the ports.
            "ProgramExternalConnectivity": with_request(endpoint, self.nothing),
            "RevokeExternalConnectivity": with_request(endpoint, self.nothing),
            # Hosts find each other in etcd, not in Docker's gossip.
            "DiscoverNew": with_request(codec.Fields.itself, self.nothing),
            "DiscoverDelete": with_request(codec.Fields.itself, self.nothing),
        }
        return {f"NetworkDriver.{name}": call for name, call in table.items()}

    def get_capabilities(self) -> Answer:
        """Return the scope; this must not need etcd: dockerd asks once and remembers a failure."""
        return messages.network_capabilities(self._scope)

    def check_gateway(self, request: object) -> Answer:  # noqa: ARG002
        """Let dockerd allocate a gateway: unused by us, expected in `docker network inspect`."""
        return {"SkipIPv4": False, "SkipIPv6": False}

    def create_network(self, request: messages.CreateNetworkRequest) -> Answer:
        """CreateNetwork."""
        self._networks.create_network(request.network_id, request.pools, request.options,
                                      internal=request.internal)
        return {}

    def delete_network(self, request: messages.NetworkRequest) -> Answer:
        """DeleteNetwork."""
        self._networks.delete_network(request.network_id)
        return {}

    def allocate_network(self, request: messages.AllocateNetworkRequest) -> Answer:
        """Echo the options: the swarm's workers see only the options of this answer."""
        self._networks.check(request.pools, request.options)
        self._addresses.hold_pools(request.network_id, [str(p.subnet) for p in request.pools])
        return {"Options": dict(request.options)}

    def free_network(self, request: messages.NetworkRequest) -> Answer:
        """FreeNetwork."""
        self._addresses.let_pools_go(request.network_id)
        return {}

    def create_endpoint(self, request: messages.CreateEndpointRequest) -> Answer:
        """CreateEndpoint."""
        endpoint = self._endpoints.create_endpoint(request.endpoint)
        return messages.created_endpoint(endpoint, mac_given=request.mac_given)

    def delete_endpoint(self, request: messages.EndpointCall) -> Answer:
        """DeleteEndpoint."""
        self._endpoints.delete_endpoint(request.network_id, request.endpoint_id)
        return {}

    def describe_endpoint(self, request: messages.EndpointCall) -> Answer:
        """EndpointOperInfo."""
        return messages.operational(
            self._endpoints.get_endpoint(request.network_id, request.endpoint_id))

    def join(self, request: messages.JoinRequest) -> Answer:
        """Join."""
        return messages.joined(self._endpoints.join(request.network_id, request.endpoint_id,
                                                    request.sandbox_key))

    def leave(self, request: messages.EndpointCall) -> Answer:
        """Leave."""
        self._endpoints.leave(request.network_id, request.endpoint_id)
        return {}

    def nothing(self, request: object) -> Answer:  # noqa: ARG002
        """Answer a call that does not concern us."""
        return {}
