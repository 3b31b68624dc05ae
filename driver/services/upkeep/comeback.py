"""What a host gives up that a person has had forgotten (`slim forget-host`): all it had.

That is the one word on which containers lose their network here.  Begun again it goes on with what
is left.
"""

from __future__ import annotations

from functools import partial

from driver.services.addresses.service import AddressService
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.networks.lifecycle import NetworkService
from driver.services.notes.own import OwnEndpoints, OwnNetworks
from driver.work.undo import Step, run_all


def give_up_everything(networks: OwnNetworks, endpoints: OwnEndpoints, service: EndpointService,
                       network_service: NetworkService, addresses: AddressService) -> None:
    """End all endpoints and networks of this host.  Errors: SlimError, after all was tried."""
    steps: list[Step] = [
        (f"give up endpoint {each.id[:12]}", partial(service.give_up, each.id))
        for each in endpoints.list()]
    steps += [(f"give up network {each.id[:12]}",
               partial(network_service.delete_network, each.id)) for each in networks.list()]
    run_all([*steps, ("give up pools and addresses", addresses.give_up)])
