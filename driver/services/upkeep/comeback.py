"""Gives up everything that this host had, after a person had it forgotten (`slim forget-host`).

Only on that command do containers lose their network here.  A repeated call continues with what is
left.
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
    """Remove this host's endpoints, networks, pools and addresses.

    Error: SlimError, after every step was tried.
    """
    steps: list[Step] = [
        (f"give up endpoint {each.id[:12]}", partial(service.give_up, each.id))
        for each in endpoints.list()]
    steps += [(f"give up network {each.id[:12]}",
               partial(network_service.delete_network, each.id)) for each in networks.list()]
    run_all([*steps, ("give up pools and addresses", addresses.give_up)])
