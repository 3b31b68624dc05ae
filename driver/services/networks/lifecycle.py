"""Creates and removes Docker networks on this host."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network

from driver.model import SPACES, Network, NetworkId, NetworkKey
from driver.services import options as network_options
from driver.services.addresses.overlaps import bridge_to_come, refuse_overlap
from driver.services.endpoints.lifecycle import EndpointService
from driver.services.networks.following import Following
from driver.services.notes.own import OwnNetworks
from driver.services.ports import RoutedNetworks
from driver.work.ledger import Ledger
from driver.work.locks import KeyedLocks
from driver.work.undo import Step, Undo, run_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkPool:
    """A subnet of a network as dockerd got it from the network's IPAM driver."""

    address_space: str
    subnet: IPv4Network | IPv6Network


def network_key(network_id: NetworkId, pools: Sequence[NetworkPool],
                address_spaces: Collection[str] = SPACES) -> NetworkKey:
    """Name the virtual network: its first pool if our IPAM gave it, else Docker's id.

    Outside swarm, each host's dockerd makes up its own network id; a pool of our IPAM is the one
    thing that the hosts of one network have in common.
    """
    for pool in pools:
        if pool.address_space in address_spaces:
            return NetworkKey(f"pool:{pool.subnet}")
    return NetworkKey(f"id:{network_id}")


class NetworkService:
    """Creates and deletes networks.  Each call is the other's inverse, and idempotent."""

    def __init__(self, networks: OwnNetworks, following: Following, endpoints: EndpointService, *,
                 routed: RoutedNetworks = tuple, ledger: Ledger | None = None) -> None:
        """`routed`: networks of the host that a new one must not overlap.

        ledger: repeats removals that failed, as dockerd asks only once; None: nobody does.
        """
        self._networks = networks
        self._following = following
        self._endpoints = endpoints
        self._routed = routed
        self._locks = KeyedLocks()
        # With what must be unfollowed: a removal may fail after the record is gone.
        self._removals = (ledger or Ledger()).page("remove network", self._remove_again)

    def check(self, pools: Sequence[NetworkPool], options: Mapping[str, str]) -> None:
        """Refuse options that `create_network` would refuse (a swarm manager asks first)."""
        network_options.parse(options, v6=_has_v6(pools))

    def create_network(self, network_id: NetworkId, pools: Sequence[NetworkPool],
                       options: Mapping[str, str], *, internal: bool) -> Network:
        """Create the network on this host and follow its directory.

        `pools`: IPv4 first, then IPv6.  `options`: the user's, values as typed.
        Errors: InvalidArgument (options), Conflict (the id exists with other values; a subnet
        overlaps a network of the host, whoever's IPAM chose it), Exhausted, StoreUnavailable;
        after an error nothing new is left.
        """
        chosen = network_options.parse(options, v6=_has_v6(pools))
        # A pool with prefix length 0 comes from Docker's "null" IPAM and means: no subnet.
        subnets = tuple(str(pool.subnet) for pool in pools if pool.subnet.prefixlen)
        with self._locks.hold(network_id), Undo() as undo:
            self._removals.drop(network_id)
            existed = self._networks.get(network_id) is not None
            if not existed:
                self._refuse_overlaps(pools)
            network = self._networks.create(
                network_id, network_key(network_id, pools), subnets=subnets, internal=internal,
                mtu=chosen.mtu, vip=chosen.vip, host_path=chosen.host_path,
                names=chosen.names)
            if not existed:
                undo.push("delete the network", lambda: self._networks.delete(network_id))
                undo.push("unfollow the network", lambda: self._following.unfollow(network))
            self._following.follow(network)
            if not existed:
                self._say_who_shares(network)
            return network

    def delete_network(self, network_id: NetworkId) -> None:
        """Remove the network and its endpoints from this host.  Unknown: nothing to do.

        dockerd cannot be refused here and never asks again: every step is tried.
        """
        with self._locks.hold(network_id):
            self._delete(network_id)

    def _delete(self, network_id: NetworkId) -> None:
        network = self._networks.get(network_id) or self._removals.get(network_id)
        steps: list[Step] = [
            (f"delete endpoint {endpoint_id[:12]}",
             partial(self._endpoints.delete_endpoint, network_id, endpoint_id))
            for endpoint_id in self._endpoints.list_endpoints(network_id)]
        if network is None:
            run_all(steps)
            return
        with self._removals.attempt(network_id, network):
            run_all([*steps,
                     ("unfollow the network", lambda: self._following.unfollow(network)),
                     ("delete the network", lambda: self._networks.delete(network_id))])

    def _remove_again(self, network_id: NetworkId, _network: Network) -> None:
        with self._locks.hold(network_id):
            if self._removals.get(network_id) is not None:  # else it was created again
                self._delete(network_id)

    def enter(self, network_id: NetworkId) -> bool:
        """Put the network back on record if etcd lacks it; return whether anything had to be done.

        Errors: see ports.Networks.enter.  Unknown here, or being removed: nothing to do.
        """
        with self._locks.hold(network_id):
            network = self._networks.get(network_id)
            return network is not None and self._networks.enter(network)

    def take(self, network_id: NetworkId) -> None:
        """Note a network that is on record as this host's, and has no note: that was lost.

        Errors: StoreUnavailable, StateError.  On record no more, or being removed: nothing to do.
        """
        with self._locks.hold(network_id):
            if (self._networks.get(network_id) is not None
                    or self._removals.get(network_id) is not None):
                return
            # Read again: DeleteNetwork may have come in between.
            for network in self._networks.on_record():
                if network.id == network_id:
                    self._networks.note(network)
                    log.warning("network %.12s is noted again, as etcd has it", network_id)

    def _refuse_overlaps(self, pools: Sequence[NetworkPool]) -> None:
        routed = self._routed()
        coming = bridge_to_come(routed)
        for pool in pools:
            if pool.subnet.prefixlen:
                ours = pool.address_space in SPACES
                refuse_overlap(pool.subnet, [*routed, *(coming if ours else ())])

    def _say_who_shares(self, network: Network) -> None:
        """Log what Docker's command does not say: its user may not have meant it."""
        if network.key.startswith("id:"):
            log.info("network %s has no addresses of slim's: outside a swarm it is of this host "
                     "alone; for several hosts --ipam-driver slim (Compose: ipam: driver: slim)",
                     network.id[:12])
        for other in self._same_virtual_network(network):
            log.info("networks %s and %s of this host have the same subnet: they are one network, "
                     "their containers reach each other", other.id[:12], network.id[:12])

    def _same_virtual_network(self, network: Network) -> list[Network]:
        """Return this host's other Docker networks with the same VNI: one virtual network."""
        return [other for other in self._networks.list()
                if other.vni == network.vni and other.id != network.id]


def _has_v6(pools: Sequence[NetworkPool]) -> bool:
    return any(pool.subnet.version == 6 for pool in pools)
