"""Reads and writes networks in etcd: the virtual network with its VNI, and this host's part in it.

Reads come from a cache: only this host writes its part.
"""

from __future__ import annotations

from collections.abc import Sequence

from driver.errors import Conflict, NotFound, StoreUnavailable
from driver.model import VNI_MAX, HostId, HostPath, Network, NetworkId, NetworkKey
from driver.store.cache import LocalCache
from driver.store.format import keys, records
from driver.store.kv.protocol import Entry, KeyValue, Read
from driver.store.kv.transaction import Transaction
from driver.store.membership import Membership
from driver.work import contended
from driver.work.doubts import Doubts
from driver.work.ledger import Ledger


class EtcdNetworks:
    """driver.services.ports.Networks over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue, host: HostId,
                 vnis: range = range(1, VNI_MAX + 1), ledger: Ledger | None = None) -> None:
        """ledger: repeats what etcd does not confirm; None: the next use does."""
        self._kv = kv
        self._host = host
        self._membership = Membership(kv, host, vnis)
        self._doubts = Doubts("networks", ledger)
        self._cache: LocalCache[NetworkId, Network] = LocalCache(
            kv, keys.local_networks(host), records.network, lambda network: network.id)

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True,
               host_path: HostPath = HostPath.AUTO, names: bool = True) -> Network:
        """See ports.Networks."""
        self._doubts.settle()
        for _ in contended.attempts():
            local = self._kv.get(keys.local_network(self._host, network_id))
            if local is not None:
                known = records.decode(local, records.network)
                self._cache.put(known)
                if (known.key, known.subnets, known.internal, known.mtu, known.vip,
                        known.host_path, known.names) != (
                            key, subnets, internal, mtu, vip, host_path, names):
                    raise Conflict(f"network {network_id[:12]} exists with other values "
                                   f"({known.key}, {', '.join(known.subnets)})")
                return known
            joining = Transaction()
            vni = self._membership.join(key, network_id, joining)
            network = Network(network_id, key, vni, subnets, internal, mtu, vip,
                              host_path, names)
            try:
                done = self._with_record(network, joining).commit(self._kv)
            except StoreUnavailable as error:
                # The write may have happened.  dockerd gives up on the network and deletes nothing.
                self._delete_later(network_id, error)
                raise
            if done:
                self._cache.put(network)
                return network
        raise StoreUnavailable(f"network {key}: too many hosts change it at once, try again")

    def enter(self, network: Network) -> bool:
        """See ports.Networks."""
        self._doubts.settle()
        for _ in contended.attempts():
            local = self._kv.get(keys.local_network(self._host, network.id))
            right = local is not None and records.decode(local, records.network) == network
            joining = Transaction()
            self._membership.join(network.key, network.id, joining, network.vni)
            change = joining if right else self._with_record(network, joining, local)
            if not change.ops or change.commit(self._kv):
                self._cache.put(network)
                return bool(change.ops)
        raise StoreUnavailable(f"network {network.key}: too many hosts change it at once")

    def delete(self, network_id: NetworkId) -> None:
        """See ports.Networks.

        Error: StoreUnavailable; the deletion then happens as soon as etcd answers again.
        """
        try:
            self._doubts.settle()
            self._delete(network_id)
        except StoreUnavailable as error:
            self._delete_later(network_id, error)
            raise

    def _delete_later(self, network_id: NetworkId, error: StoreUnavailable) -> None:
        self._doubts.add(f"deleting network {network_id[:12]}",
                         lambda: self._delete(network_id), error)

    def _delete(self, network_id: NetworkId) -> None:
        for _ in contended.attempts():
            local = self._kv.get(keys.local_network(self._host, network_id))
            if local is None:
                self._cache.remove(network_id)
                return
            network = records.decode(local, records.network)
            change = Transaction()
            change.as_read(local.key, local)
            change.delete(local.key)
            self._membership.leave(network.key, network_id, change)
            if change.commit(self._kv):
                self._cache.remove(network_id)
                return
        raise StoreUnavailable(f"network {network_id[:12]}: too many hosts change it at once")

    def settle(self) -> None:
        """Finish what etcd did not confirm earlier.  Error: StoreUnavailable."""
        self._doubts.settle()

    def get(self, network_id: NetworkId) -> Network | None:
        """See ports.Networks."""
        return self._cache.all().get(network_id)

    def list(self) -> list[Network]:
        """See ports.Networks."""
        return list(self._cache.all().values())

    def on_record(self) -> Sequence[Network]:
        """See ports.Networks.  Settles first what etcd did not confirm."""
        self._doubts.settle()
        return [*self._cache.reread().values()]

    def locally(self, network_id: NetworkId, read: Read) -> tuple[Network, Entry]:
        """Return the network and its record, as `read` has it.  Error: NotFound."""
        entry = read(keys.local_network(self._host, network_id))
        if entry is None:
            raise NotFound(f"network {network_id[:12]} does not exist on this host")
        return records.decode(entry, records.network), entry

    def _with_record(self, network: Network, joining: Transaction,
                     before: Entry | None = None) -> Transaction:
        """Return a transaction that first writes this host's record, which reveals the outcome."""
        change = Transaction()
        key = keys.local_network(self._host, network.id)
        change.as_read(key, before)
        change.put(key, records.encode(records.network_fields(network)))
        return Transaction([*change.compares, *joining.compares], [*change.ops, *joining.ops])
