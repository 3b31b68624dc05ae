"""Owns networks in etcd: the virtual network with its VNI, and this host's part in it.

It must not know endpoints or addresses.  Reads come from a cache: this host alone writes its part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from driver.doubts import Doubts
from driver.errors import Conflict, Exhausted, NotFound, StoreUnavailable
from driver.model import VNI_MAX, HostId, Network, NetworkId, NetworkKey, Vni
from driver.store import keys, records
from driver.store.cache import LocalCache
from driver.store.kv import Entry, KeyValue, Read, Transaction

ATTEMPTS = 16  # other hosts create and delete the same network at the same moment, rarely


class EtcdNetworks:
    """driver.services.ports.Networks over etcd.  Thread-safe."""

    def __init__(self, kv: KeyValue, host: HostId,
                 vnis: range = range(1, VNI_MAX + 1)) -> None:
        self._kv = kv
        self._host = host
        self._vnis = vnis
        self._doubts = Doubts()
        self._cache: LocalCache[NetworkId, Network] = LocalCache(
            kv, keys.local_networks(host), records.network, lambda network: network.id)

    def create(self, network_id: NetworkId, key: NetworkKey, *, subnets: tuple[str, ...],
               internal: bool, mtu: int, vip: bool = True) -> Network:
        """See ports.Networks."""
        self._doubts.settle()
        for _ in range(ATTEMPTS):
            local = self._kv.get(keys.local_network(self._host, network_id))
            if local is not None:
                known = records.decode(local, records.network)
                self._cache.put(known)
                if (known.key, known.subnets, known.internal, known.mtu, known.vip) != (
                        key, subnets, internal, mtu, vip):
                    raise Conflict(f"network {network_id[:12]} exists with other values "
                                   f"({known.key}, {', '.join(known.subnets)})")
                return known
            shared = self._kv.get(keys.network(key))
            vni = records.decode(shared, records.vni) if shared else self._free_vni(key)
            members = records.decode(shared, records.members) if shared else {}
            members[self._host] = (*members.get(self._host, ()), network_id)
            network = Network(network_id, key, vni, subnets, internal, mtu, vip)
            local_key = keys.local_network(self._host, network_id)
            change = Transaction()
            change.as_read(local_key, None)
            change.put(local_key, records.encode(records.network_fields(network)))
            change.as_read(keys.network(key), shared)
            change.put(keys.network(key), _shared(key, vni, members))
            if shared is None:
                change.as_read(keys.vni(vni), None)
                change.put(keys.vni(vni), records.encode({"key": key}))
            try:
                done = change.commit(self._kv)
            except StoreUnavailable:
                # It may have happened.  dockerd gives the network up, and deletes nothing.
                self._doubts.add(lambda: self._delete(network_id))
                raise
            if done:
                self._cache.put(network)
                return network
        raise StoreUnavailable(f"network {key}: too many hosts change it at once, try again")

    def delete(self, network_id: NetworkId) -> None:
        """See ports.Networks.

        Error: StoreUnavailable; it is then done as soon as etcd answers again.
        """
        try:
            self._doubts.settle()
            self._delete(network_id)
        except StoreUnavailable:
            self._doubts.add(lambda: self._delete(network_id))
            raise

    def _delete(self, network_id: NetworkId) -> None:
        for _ in range(ATTEMPTS):
            local = self._kv.get(keys.local_network(self._host, network_id))
            if local is None:
                self._cache.remove(network_id)
                return
            network = records.decode(local, records.network)
            change = Transaction()
            change.as_read(local.key, local)
            change.delete(local.key)
            shared = self._kv.get(keys.network(network.key))
            change.as_read(keys.network(network.key), shared)
            if shared is not None:
                self._leave(network, shared, change)
            if change.commit(self._kv):
                self._cache.remove(network_id)
                return
        raise StoreUnavailable(f"network {network_id[:12]}: too many hosts change it at once")

    def settle(self) -> None:
        """Do what etcd did not confirm earlier.  Error: StoreUnavailable."""
        self._doubts.settle()

    def get(self, network_id: NetworkId) -> Network | None:
        """See ports.Networks."""
        return self._cache.all().get(network_id)

    def list(self) -> list[Network]:
        """See ports.Networks."""
        return list(self._cache.all().values())

    def reread(self) -> Sequence[Network]:
        """See ports.Networks."""
        return [*self._cache.reread().values()]

    def locally(self, network_id: NetworkId, read: Read) -> tuple[Network, Entry]:
        """Return the network and its record, as `read` has it.  Error: NotFound."""
        entry = read(keys.local_network(self._host, network_id))
        if entry is None:
            raise NotFound(f"network {network_id[:12]} does not exist on this host")
        return records.decode(entry, records.network), entry

    def _leave(self, network: Network, shared: Entry, change: Transaction) -> None:
        members = records.decode(shared, records.members)
        left = tuple(i for i in members.pop(self._host, ()) if i != network.id)
        if left:
            members[self._host] = left
        if members:
            change.put(shared.key, _shared(network.key, network.vni, members))
        else:
            change.delete(shared.key)
            change.delete(keys.vni(network.vni))

    def _free_vni(self, key: NetworkKey) -> Vni:
        """Choose by the name's hash: two networks made at once rarely want the same number."""
        digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        start = self._vnis[digest % len(self._vnis)]
        for first, end in ((start, self._vnis.stop), (self._vnis.start, start)):
            candidate = first
            while candidate < end:
                taken = self._kv.range(keys.VNIS, start=keys.vni(candidate), stop=keys.vni(end),
                                       limit=256, keys_only=True)
                for entry in taken.entries:
                    if keys.vni_of(entry.key) != candidate:
                        return Vni(candidate)
                    candidate += 1
                if not taken.more and candidate < end:
                    return Vni(candidate)
        raise Exhausted(f"all {len(self._vnis)} VXLAN network identifiers are in use")


def _shared(key: NetworkKey, vni: Vni, members: dict[HostId, tuple[NetworkId, ...]]) -> bytes:
    return records.encode({"key": key, "vni": vni,
                           "members": {host: list(ids) for host, ids in members.items()}})
