"""Mirrors the vips of this host's networks from the managers' feed to the kernel.

Without a feed (etcd or all managers away), what the kernel knows stays; a task that is gone is not
chosen, as the directory lacks it.  If a record is missing or unreadable, its service stays as it
was known until a manager says something or an endpoint has its address (docs/decisions/0009).
Several Docker networks with one subnet are one network here: each has its own feed, and the kernel
knows the union of their services.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from driver.errors import DatapathError
from driver.model import SWARM_ID_LENGTH, Network, NetworkId, Vip, Vni
from driver.services.directory.view import Doubt
from driver.services.ports import (
    Datapath,
    VipFeed,
    VipLeft,
    VipSaid,
)
from driver.work.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass
class _Served:
    """The services of one network, as its feed has told them."""

    vips: dict[IPv4Address, Vip] = field(default_factory=dict)
    doubts: dict[IPv4Address, Doubt] = field(default_factory=dict)  # services without a record
    unreadable: set[IPv4Address] = field(default_factory=set)
    revision: int = 0  # of the newest list

    def swarm(self) -> str:
        """Return the id of the network's swarm; empty: unknown."""
        return next((service.swarm for service in self.vips.values() if service.swarm), "")


class VipMirror:
    """Listens to the feed.  Thread-safe."""

    def __init__(self, feed: VipFeed, datapath: Datapath, ledger: Ledger | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """ledger: repeats what the maps refused; None: nobody does.  clock: seconds, monotonic."""
        self._feed = feed
        self._datapath = datapath
        self._clock = clock
        self._lock = threading.RLock()
        self._vnis: dict[NetworkId, Vni] = {}
        # By network; no entry: its feed has not reported anything yet.
        self._served: dict[NetworkId, _Served] = {}
        # In the maps: entered by an earlier driver and not reported since.
        self._inherited: dict[Vni, dict[IPv4Address, float]] = {}  # since when, monotonic
        for vni, address in datapath.list_vips():
            self._inherited.setdefault(vni, {})[address] = self._clock()
        self._refused = (ledger or Ledger()).page(
            "vip", self._bring_again, called=lambda key: f"{key[1]} of network {key[0]}")

    def follow(self, network: Network) -> None:
        """Start serving the network's services, if it can have any.  Idempotent."""
        if len(network.id) != SWARM_ID_LENGTH or not network.vip:
            return
        with self._lock:
            self._vnis[network.id] = network.vni
        self._feed.follow(network.id, self)

    def unfollow(self, network: Network) -> None:
        """Undo `follow`.  Idempotent."""
        with self._lock:
            if network.id not in self._vnis:
                return
        self._feed.unfollow(network.id)  # waits for its listener: not under the lock
        with self._lock:
            if self._vnis.pop(network.id, None) is not None:
                gone = self._served.pop(network.id, _Served()).vips
                # The last network with this VNI also takes along what no feed has reported.
                rest = () if self._networks(network.vni) else self._inherited.pop(network.vni, ())
                self._bring(network.vni, {*gone, *rest})

    def followed(self, networks: Collection[Network]) -> None:
        """Take the complete list of this host's networks that are on record.

        Other vips of an earlier driver are removed if the user has switched vips off there, or if
        no container of this host is there: then nobody uses them.
        """
        with self._lock:
            known = {network.vni for network in networks}
            wanted = {network.vni for network in networks if network.id in self._vnis}
            lost = self._datapath.local_networks() - known  # only their records are missing
            for vni in self._inherited.keys() - wanted - lost:
                self._bring(vni, self._inherited.pop(vni))

    def snapshot(self, network_id: NetworkId, said: Iterable[VipSaid], revision: int) -> None:
        """See ports.VipListener."""
        with self._lock:
            vni = self._vnis.get(network_id)
            if vni is None:
                return
            served = self._served.setdefault(network_id, _Served())
            served.revision = revision
            seen, served.unreadable = set(), set()
            for one in said:
                if isinstance(one, Vip):
                    self._put(vni, served, one)
                elif isinstance(one, VipLeft):
                    self._left(vni, served, one.address)
                else:
                    self._unreadable(served, one.address)
                seen.add(one.address)
            for address in served.vips.keys() - seen:
                self._doubt(served, address, revision)

    def put(self, service: Vip) -> None:
        """See ports.VipListener."""
        with self._lock:
            vni = self._vnis.get(service.network_id)
            if vni is not None:
                self._put(vni, self._served.setdefault(service.network_id, _Served()), service)

    def left(self, network_id: NetworkId, address: IPv4Address) -> None:
        """See ports.VipListener."""
        with self._lock:
            vni = self._vnis.get(network_id)
            if vni is not None:
                self._left(vni, self._served.setdefault(network_id, _Served()), address)

    def missing(self, network_id: NetworkId, address: IPv4Address, revision: int) -> None:
        """See ports.VipListener."""
        with self._lock:
            served = self._served.get(network_id)
            if served is not None:
                served.unreadable.discard(address)
                if address in served.vips:
                    self._doubt(served, address, revision)

    def unreadable(self, network_id: NetworkId, address: IPv4Address) -> None:
        """See ports.VipListener."""
        with self._lock:
            if network_id in self._vnis:
                self._unreadable(self._served.setdefault(network_id, _Served()), address)

    def address_taken(self, vni: Vni, address: IPv4Address) -> None:
        """Remove a service in doubt whose address an endpoint now has."""
        with self._lock:
            gone = self._inherited.get(vni, {}).pop(address, None) is not None
            for network_id in self._networks(vni):
                served = self._served.get(network_id)
                if served is not None and address in served.doubts:
                    self._forget(served, address)
                    gone = True
            if gone:
                self._bring(vni, [address])

    def doubts(self) -> dict[str, Doubt]:
        """Return swarm's id (empty: unknown) -> its newest revision and its oldest moment."""
        found: dict[str, Doubt] = {}
        with self._lock:
            for swarm, _, doubt in self._all_doubts():
                known = found.get(swarm, doubt)
                found[swarm] = Doubt(max(known.revision, doubt.revision),
                                     min(known.since_s, doubt.since_s))
        return found

    def in_doubt(self) -> list[IPv4Address]:
        """Return the vips whose records are missing or unreadable."""
        with self._lock:
            return sorted([*(address for _, address, _ in self._all_doubts()),
                           *(address for served in self._served.values()
                             for address in served.unreadable)])

    def settle(self, swarm: str, revision: int) -> int:
        """Remove doubtful services of a swarm that had all its services on record as of `revision`.

        Return how many were removed.  Error: StoreUnavailable; the call must then be repeated.
        """
        with self._lock:
            asked = [(network_id, found) for network_id, served in self._served.items()
                     if swarm and served.swarm() == swarm
                     and (found := self._settled(network_id, served, revision))]
        gone = 0
        for network_id, found in asked:
            # As of now, which may be later than the feed.
            on_record = {one.address for one in self._feed.read(network_id)
                         if not isinstance(one, VipLeft)}
            with self._lock:
                if network_id in self._served:
                    gone += self._settle(network_id, revision, found - on_record)
        return gone

    def _settled(self, network_id: NetworkId, served: _Served, revision: int) -> set[IPv4Address]:
        found = {address for address, doubt in served.doubts.items() if doubt.revision <= revision}
        vni = self._vnis[network_id]
        # Nobody knows whose an inherited entry is: all networks with this VNI must have reported.
        if len(self._networks(vni)) == 1 and not served.unreadable and (
                0 < served.revision <= revision):
            found |= self._inherited.get(vni, {}).keys()
        return found

    def _settle(self, network_id: NetworkId, revision: int, addresses: set[IPv4Address]) -> int:
        served, vni = self._served[network_id], self._vnis[network_id]
        # In the meantime one may be back on record, or missing again.
        gone = self._settled(network_id, served, revision) & addresses
        for address in gone:
            self._forget(served, address)
            self._inherited.get(vni, {}).pop(address, None)
        self._bring(vni, gone)
        return len(gone)

    def count(self) -> int:
        """Count the services that this host serves."""
        with self._lock:
            return sum(len(served.vips) for served in self._served.values()) + sum(
                map(len, self._inherited.values()))

    def _put(self, vni: Vni, served: _Served, service: Vip) -> None:
        served.unreadable.discard(service.address)
        served.doubts.pop(service.address, None)
        self._inherited.get(vni, {}).pop(service.address, None)
        served.vips[service.address] = service
        # Another network with this VNI may have had a service in doubt there: that one is gone.
        for network_id in self._networks(vni):
            other = self._served.get(network_id)
            if other is not None and service.address in other.doubts:
                self._forget(other, service.address)
        self._bring(vni, [service.address])

    def _left(self, vni: Vni, served: _Served, address: IPv4Address) -> None:
        served.unreadable.discard(address)
        self._inherited.get(vni, {}).pop(address, None)
        self._forget(served, address)
        self._bring(vni, [address])

    @staticmethod
    def _unreadable(served: _Served, address: IPv4Address) -> None:
        served.unreadable.add(address)
        served.doubts.pop(address, None)  # it is on record

    def _doubt(self, served: _Served, address: IPv4Address, revision: int) -> None:
        known = served.doubts.get(address)
        served.doubts[address] = Doubt(revision, known.since_s if known else self._clock())

    @staticmethod
    def _forget(served: _Served, address: IPv4Address) -> None:
        served.vips.pop(address, None)
        served.doubts.pop(address, None)

    def _all_doubts(self) -> Iterable[tuple[str, IPv4Address, Doubt]]:
        swarms: dict[Vni, tuple[str, int]] = {}  # of networks whose feed has reported
        for network_id, served in self._served.items():
            swarm = served.swarm()
            if served.revision:
                swarms[self._vnis[network_id]] = swarm, served.revision
            for address, doubt in served.doubts.items():
                yield swarm, address, doubt
        for vni, addresses in self._inherited.items():
            if vni in swarms:
                swarm, revision = swarms[vni]
                for address, since_s in addresses.items():
                    yield swarm, address, Doubt(revision, since_s)

    def _networks(self, vni: Vni) -> list[NetworkId]:
        return [network_id for network_id, its_vni in self._vnis.items() if its_vni == vni]

    def _bring_again(self, key: tuple[Vni, IPv4Address], _none: None) -> None:
        with self._lock:
            self._bring(key[0], [key[1]])

    def _bring(self, vni: Vni, addresses: Iterable[IPv4Address]) -> None:
        """Bring the maps in line with what is known of these addresses."""
        for address in addresses:
            if address in self._inherited.get(vni, {}):
                continue  # not reported yet
            # More than one only for a moment: another service had this address before.
            found = [served.vips[address] for network_id in self._networks(vni)
                     if (served := self._served.get(network_id)) and address in served.vips]
            try:
                if found:
                    self._datapath.put_vip(vni, address, list(dict.fromkeys(
                        backend for service in found for backend in service.backends)))
                else:
                    self._datapath.delete_vip(vni, address)
                self._refused.drop((vni, address))
            except DatapathError as error:
                self._refused.note((vni, address), None, error)
                log.error("service %s: %s", found[0].name if found else address, error)
