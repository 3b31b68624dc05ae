"""Follows the feeds of the virtual networks that this host's Docker networks belong to.

Docker networks with the same subnet share a VNI, and independent calls create, remove and find
them again: so each VNI has one lock.
"""

from __future__ import annotations

from driver.model import Network, NetworkId
from driver.services.ports import Directory, DirectoryListener, Networks
from driver.services.vips.mirror import VipMirror
from driver.work.locks import KeyedLocks
from driver.work.undo import run_all


class Following:
    """Follows each network's directory and services.  Thread-safe; all calls are idempotent."""

    def __init__(self, networks: Networks, directory: Directory, listener: DirectoryListener,
                 vips: VipMirror) -> None:
        self._networks = networks
        self._directory = directory
        self._listener = listener
        self._vips = vips
        self._locks = KeyedLocks()
        self._going: set[NetworkId] = set()  # unfollowed, perhaps still on record

    def follow(self, network: Network) -> None:
        """Start following a network that is on record.  Error: Conflict (still busy)."""
        with self._locks.hold(str(network.vni)):
            self._going.discard(network.id)
            self._follow(network)

    def resume(self, network: Network) -> None:
        """Follow a network that was found on record, unless it is being removed or is gone.

        Errors: Conflict, StoreUnavailable.
        """
        with self._locks.hold(str(network.vni)):
            if network.id not in self._going and self._networks.get(network.id) is not None:
                self._follow(network)

    def unfollow(self, network: Network) -> None:
        """Stop following, before or after the record goes.  Errors: Conflict, StoreUnavailable."""
        with self._locks.hold(str(network.vni)):
            self._going.add(network.id)
            run_all([("unfollow its services", lambda: self._vips.unfollow(network)),
                     ("unfollow its directory", lambda: self._leave_directory(network))])

    def _follow(self, network: Network) -> None:
        self._directory.follow(network.vni, self._listener)
        self._vips.follow(network)

    def _leave_directory(self, network: Network) -> None:
        recorded = {each.id: each for each in self._networks.list()}
        if not any(each.vni == network.vni for each in recorded.values()
                   if each.id not in self._going):
            self._directory.unfollow(network.vni)
        self._going &= {*recorded, network.id}
