"""Writes endpoint records to etcd, and binds their addresses in the same transactions.

A network that is not one of our pools has no reservations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface

from driver.errors import Conflict, NotFound, StoreUnavailable, UnsupportedRecord
from driver.model import (
    GLOBAL_HOLDER,
    STAND_IN,
    SWARM_ID_LENGTH,
    Endpoint,
    EndpointId,
    HoldKind,
    HostId,
    Network,
    Reservation,
)
from driver.store.cache import LocalCache
from driver.store.format import keys, records
from driver.store.kv.protocol import Entry, KeyValue, LeaseGone, Read
from driver.store.kv.transaction import Transaction, recalling
from driver.store.networks import EtcdNetworks
from driver.store.tombstones import Tombstones
from driver.work import contended
from driver.work.doubts import Doubts
from driver.work.ledger import Ledger


class EtcdEndpoints:
    """driver.services.ports.Endpoints over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue, host: HostId, networks: EtcdNetworks,
                 ledger: Ledger | None = None) -> None:
        """ledger: repeats what etcd does not confirm; None: the next use does."""
        self._kv = kv
        self._host = host
        self._networks = networks
        self._doubts = Doubts("endpoints", ledger)
        self._tombstones = Tombstones(kv)
        self._cache: LocalCache[EndpointId, Endpoint] = LocalCache(
            kv, keys.local_endpoints(host), records.endpoint, lambda endpoint: endpoint.id)

    def create(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints.  Also raises NotFound (this host has no such network)."""
        self._doubts.settle()
        with suppress(Conflict, NotFound):  # may be out of date: checked again below
            if self._create(endpoint, None, None, recalling(self._kv)):
                return
        local_key = keys.local_endpoint(self._host, endpoint.id)
        shared_key = keys.endpoint(endpoint.vni, endpoint.id)
        for _ in contended.attempts():
            if self._create(endpoint, self._kv.get(local_key), self._kv.get(shared_key),
                            self._kv.get):
                return
        raise StoreUnavailable(f"endpoint {endpoint.id[:12]}: its address has too many "
                               "concurrent changes; try again")

    def _create(self, endpoint: Endpoint, existing: Entry | None, shared: Entry | None,
                read: Read) -> bool:
        if existing is not None:
            known = records.decode(existing, records.endpoint)
            self._cache.put(known)
            if _made_as(known) != _made_as(endpoint):
                raise Conflict(f"endpoint {endpoint.id[:12]} exists with other values")
            return True
        network, network_entry = self._networks.locally(endpoint.network_id, read)
        if network.vni != endpoint.vni:
            raise Conflict(f"endpoint {endpoint.id[:12]} names VNI {endpoint.vni}, its "
                           f"network has {network.vni}")
        local_key = keys.local_endpoint(self._host, endpoint.id)
        if shared is not None:
            self._refuse_others(shared)
        shared_key = keys.endpoint(endpoint.vni, endpoint.id)
        change = Transaction()
        change.as_read(local_key, None)
        change.as_read(shared_key, shared)
        change.as_read(network_entry.key, network_entry)
        change.put(local_key, records.encode(records.local_endpoint_fields(endpoint)))
        change.put(shared_key, records.encode(records.shared_endpoint_fields(endpoint)))
        for address, cidr in _reserved(network, endpoint):
            self._bind(endpoint, address, cidr, change, read)
        try:
            done = change.commit(self._kv)
        except StoreUnavailable as error:
            # The write may have happened.  dockerd gives up on the endpoint and deletes nothing.
            self._delete_later(endpoint.id, None, error)
            raise
        if done:
            self._cache.put(endpoint)
        return done

    def _refuse_others(self, shared: Entry) -> None:
        """Refuse unless the record is a tombstone, or this host's, whose local record is lost."""
        if records.decode(shared, records.has_left):
            return
        host = records.decode(shared, records.endpoint).host
        if host != self._host:
            raise Conflict(f"{shared.key} in etcd is of host {host[:12]}")

    def replace(self, endpoint: Endpoint) -> None:
        """See ports.Endpoints.  The addresses stay unchanged."""
        self._doubts.settle()
        for read in self._reads():
            if self._replace(endpoint, read):
                return
        raise StoreUnavailable(f"endpoint {endpoint.id[:12]} has too many concurrent changes")

    def _replace(self, endpoint: Endpoint, read: Read) -> bool:
        local_key = keys.local_endpoint(self._host, endpoint.id)
        existing = read(local_key)
        if existing is None:
            self._cache.remove(endpoint.id)
            raise NotFound(f"endpoint {endpoint.id[:12]} does not exist on this host")
        known = records.decode(existing, records.endpoint)
        if (known.vni, known.address, known.address6) != (
                endpoint.vni, endpoint.address, endpoint.address6):
            raise Conflict(f"endpoint {endpoint.id[:12]} cannot change network or address")
        change = Transaction()
        change.as_read(local_key, existing)
        change.put(local_key, records.encode(records.local_endpoint_fields(endpoint)))
        # Other hosts need not learn of a new sandbox.
        if replace(known, sandbox_key="") != replace(endpoint, sandbox_key=""):
            change.put(keys.endpoint(endpoint.vni, endpoint.id),
                       records.encode(records.shared_endpoint_fields(endpoint)))
        done = change.commit(self._kv)
        if done:
            self._cache.put(endpoint)
        return done

    def delete(self, endpoint_id: EndpointId, known: Endpoint | None = None) -> None:
        """See ports.Endpoints.  Also deletes a reservation that nobody holds any more.

        Error: StoreUnavailable; the deletion then happens as soon as etcd answers again.
        """
        try:
            self._doubts.settle()
            self._delete(endpoint_id, known)
        except StoreUnavailable as error:
            self._delete_later(endpoint_id, known, error)
            raise

    def _delete_later(self, endpoint_id: EndpointId, known: Endpoint | None,
                      error: StoreUnavailable) -> None:
        self._doubts.add(f"deleting endpoint {endpoint_id[:12]}",
                         lambda: self._delete(endpoint_id, known), error)

    def _delete(self, endpoint_id: EndpointId, known: Endpoint | None = None) -> None:
        for read in self._reads():
            if self._delete_as_read(endpoint_id, known, read):
                self._cache.remove(endpoint_id)
                return
        raise StoreUnavailable(f"endpoint {endpoint_id[:12]} has too many concurrent changes")

    def _delete_as_read(self, endpoint_id: EndpointId, known: Endpoint | None, read: Read
                        ) -> bool:
        local_key = keys.local_endpoint(self._host, endpoint_id)
        existing = read(local_key)
        change = Transaction()
        if existing is not None:
            endpoint = records.decode(existing, records.endpoint)
            change.as_read(local_key, existing)
            change.delete(local_key)
        else:
            # Lost in etcd, or removed by others: delete whatever is left of it all the same.
            known = known or self._cache.all().get(endpoint_id)
            if known is None:
                return True
            endpoint = known
            change.as_read(local_key, None)
        if existing is not None or self._is_to_go(endpoint, change):
            change.ops.append(self._tombstones.put(
                keys.endpoint(endpoint.vni, endpoint_id),
                records.encode(records.left_fields(endpoint))))
        # The network's record still exists: networks are deleted after their endpoints.
        network = self._networks.get(endpoint.network_id)
        for address, cidr in _reserved(network, endpoint):
            self._unbind(endpoint_id, address, cidr, change, read)
        if not change.ops:
            return True
        try:
            return change.commit(self._kv)
        except LeaseGone:  # for example with all of etcd's data: get a new one and retry once
            self._tombstones.forget()
            return False

    def _is_to_go(self, endpoint: Endpoint, change: Transaction) -> bool:
        """Tell whether to replace the shared record although this host has no local one."""
        key = keys.endpoint(endpoint.vni, endpoint.id)
        shared = self._kv.get(key)
        change.as_read(key, shared)
        if shared is None:
            return True  # other hosts may be in doubt
        with suppress(UnsupportedRecord):
            return (not records.decode(shared, records.has_left)
                    and records.decode(shared, records.endpoint).host == self._host)
        return True  # the key says whose record it is

    def missing(self, own: Callable[[], Sequence[Endpoint]]) -> tuple[list[Endpoint], int]:
        """Return the endpoints of this host that others cannot find on record, and a revision.

        own: all endpoints, as this host knows them.  An unreadable record counts as present.
        The answer is as of that revision; 0: the records are changing, ask again.
        Error: StoreUnavailable.
        """
        # Read this first: an endpoint made later was not on record then, so nobody can miss it.
        revision = self._kv.range(keys.local_endpoints(self._host), keys_only=True).revision
        by_network = sorted(own(), key=lambda endpoint: endpoint.vni)
        lost: list[Endpoint] = []
        for vni, endpoints in itertools.groupby(by_network, key=lambda endpoint: endpoint.vni):
            found = {entry.key: entry for entry in self._kv.range(keys.endpoints(vni)).entries}
            for endpoint in endpoints:
                entry = found.get(keys.endpoint(vni, endpoint.id))
                if entry is None or not _is_record(entry):
                    lost.append(endpoint)
                elif entry.mod_revision > revision:
                    revision = 0  # it may not have been there at `revision`
        return lost, revision

    def _reads(self) -> Iterator[Read]:
        """Yield a read that recalls, which is mostly up to date; then reads that ask etcd."""
        yield recalling(self._kv)
        for _ in contended.attempts():
            yield self._kv.get

    def settle(self) -> None:
        """Finish what etcd did not confirm earlier.  Error: StoreUnavailable."""
        self._doubts.settle()

    def get(self, endpoint_id: EndpointId) -> Endpoint | None:
        """See ports.Endpoints."""
        return self._cache.all().get(endpoint_id)

    def list(self) -> list[Endpoint]:
        """See ports.Endpoints."""
        return list(self._cache.all().values())

    def on_record(self) -> Sequence[Endpoint]:
        """See ports.Endpoints.  Settles first what etcd did not confirm."""
        self._doubts.settle()
        return [*self._cache.reread().values()]

    def enter(self, endpoint: Endpoint) -> bool:
        """See ports.Endpoints."""
        self._doubts.settle()
        for _ in contended.attempts():
            done = self._enter(endpoint)
            if done is not None:
                return done
        raise StoreUnavailable(f"endpoint {endpoint.id[:12]} has too many concurrent changes")

    def _enter(self, endpoint: Endpoint) -> bool | None:
        """None: something changed meanwhile.  An unreadable record does not stop the others."""
        network, network_entry = self._networks.locally(endpoint.network_id, self._kv.get)
        if network.vni != endpoint.vni:
            raise Conflict(f"endpoint {endpoint.id[:12]} has VNI {endpoint.vni}, its "
                           f"network has {network.vni} in etcd")
        change = Transaction()
        unreadable: UnsupportedRecord | None = None
        for key, fields in (
                (keys.local_endpoint(self._host, endpoint.id),
                 records.local_endpoint_fields(replace(endpoint, sandbox_key=""))),
                (keys.endpoint(endpoint.vni, endpoint.id),
                 records.shared_endpoint_fields(endpoint))):
            entry = self._kv.get(key)
            if entry is not None and records.says(entry, fields):
                continue
            try:
                if entry is not None and not records.decode(entry, records.has_left):
                    records.decode(entry, records.endpoint)
            except UnsupportedRecord as error:
                unreadable = error
                continue
            change.as_read(key, entry)
            change.put(key, records.encode(fields))
        holder = GLOBAL_HOLDER if len(endpoint.network_id) == SWARM_ID_LENGTH else self._host
        for address, cidr in _reserved(network, endpoint):
            entry = self._kv.get(keys.address(cidr, address.ip))
            found = records.decode(entry, records.reservation) if entry else None
            if found is None or found.endpoint != endpoint.id:
                self._bind(endpoint, address, cidr, change, self._kv.get, holder=holder)
        done = False
        if change.ops:
            change.as_read(network_entry.key, network_entry)
            if not change.commit(self._kv):
                return None
            self._cache.put(endpoint)
            done = True
        if unreadable is not None:
            raise unreadable
        return done

    def _bind(self, endpoint: Endpoint, address: IPv4Interface | IPv6Interface, cidr: str,
              change: Transaction, read: Read, *, holder: str = "") -> None:
        """holder: becomes the holder of an address that nobody holds; "": this host."""
        key = keys.address(cidr, address.ip)
        entry = read(key)
        if entry is None:
            # dockerd may bring an address of its own (CreateEndpoint's answer, for example) and
            # will release it through our IPAM all the same.
            reservation = Reservation(address.ip, {holder or self._host: STAND_IN})
        else:
            reservation = records.decode(entry, records.reservation)
        if reservation.endpoint not in ("", endpoint.id):
            raise Conflict(f"address {address.ip} belongs to endpoint "
                           f"{reservation.endpoint[:12]} already; choose another")
        ours = (self._host, GLOBAL_HOLDER)
        others = [holder for holder, hold in reservation.holds.items()
                  if hold.kind is HoldKind.DYNAMIC and holder not in ours]
        if others and not any(holder in reservation.holds for holder in ours):
            raise Conflict(f"address {address.ip} was given to host {others[0][:12]}; "
                           "choose another")
        change.as_read(key, entry)
        change.put(key, records.encode(
            records.reservation_fields(reservation.bound(endpoint.id))))

    def _unbind(self, endpoint_id: EndpointId, address: IPv4Interface | IPv6Interface, cidr: str,
                change: Transaction, read: Read) -> None:
        key = keys.address(cidr, address.ip)
        entry = read(key)
        change.as_read(key, entry)  # even if it stays unchanged: the recalled entry may be wrong
        if entry is None:
            return
        reservation = records.decode(entry, records.reservation)
        if reservation.endpoint != endpoint_id:
            return
        left = reservation.bound(EndpointId(""))
        if left.free:
            change.delete(key)
        else:
            change.put(key, records.encode(records.reservation_fields(left)))


def _is_record(entry: Entry) -> bool:
    with suppress(UnsupportedRecord):
        return not records.decode(entry, records.has_left)
    return True


def _made_as(endpoint: Endpoint) -> Endpoint:
    """Return what CreateEndpoint asked for: it is joined and named later; IPv6 may go."""
    return replace(endpoint, sandbox_key="", names=(), takes_ipv6=False)


def _reserved(network: Network | None, endpoint: Endpoint
              ) -> list[tuple[IPv4Interface | IPv6Interface, str]]:
    """Return the endpoint's addresses that have reservations, each with its pool's CIDR."""
    if network is not None and not network.key.startswith("pool:"):
        return []
    # The pool's CIDR comes from the network: dockerd may show the address with another prefix.
    return [(a, (network.subnet_of(a) if network else None) or str(a.network))
            for a in (endpoint.address, endpoint.address6) if a is not None]
