"""Adds to a transaction what a host's joining or leaving of a virtual network takes.

Its records are the network's key with its VNI, and one member key for each host.  A joining host
compares the network's key and writes only its own member key, so hundreds can join concurrently; a
leaving host compares another member's key, or that there is none: exactly the last one removes the
network.  Hosts that older drivers wrote into the network's value are members, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from driver.errors import Conflict, Exhausted
from driver.model import HostId, NetworkId, NetworkKey, Vni
from driver.store.format import keys, records
from driver.store.kv.protocol import Entry, KeyValue
from driver.store.kv.transaction import Transaction


class Membership:
    """One host's membership in all virtual networks.  Stateless.

    All calls also raise StoreUnavailable and UnsupportedRecord.
    """

    def __init__(self, kv: KeyValue, host: HostId, vnis: range) -> None:
        self._kv = kv
        self._host = host
        self._vnis = vnis

    def join(self, key: NetworkKey, network_id: NetworkId, change: Transaction,
             vni: Vni | None = None) -> Vni:
        """Add this host to the network; return the VNI.  A member already: nothing is added.

        vni: the required VNI; None: the network's own, or a free one.
        Errors: Conflict (the network cannot have that VNI), Exhausted.
        """
        found = self._read(key)
        change.as_read(keys.network(key), found.shared)
        if vni is not None and found.vni not in (None, vni):
            raise Conflict(f"network {key} has VNI {found.vni} in etcd, and {vni} on this host")
        number = found.vni or vni or self._free_vni(key)
        if vni is not None:
            self._own(vni, key, change)
        elif found.vni is None:
            change.as_read(keys.vni(number), None)
            change.put(keys.vni(number), records.encode({"key": key}))
        if found.vni is None or found.in_value or not found.marked:
            # Once: for the first host, for the first of this version, or for what it wrote before.
            change.put(keys.network(key), _encode(key, number, found.others))
        if network_id not in found.in_key:
            self._put(key, found, tuple(dict.fromkeys(
                (*found.in_key, *found.in_value, network_id))), change)
        return number

    def leave(self, key: NetworkKey, network_id: NetworkId, change: Transaction) -> None:
        """Remove this host from the network as far as this Docker network is concerned."""
        found = self._read(key)
        change.as_read(keys.network(key), found.shared)
        left = tuple(i for i in dict.fromkeys((*found.in_key, *found.in_value)) if i != network_id)
        if left:
            self._put(key, found, left, change)
        elif found.member is not None:
            change.as_read(found.member.key, found.member)
            change.delete(found.member.key)
        if found.vni is None:
            return
        witness = None if left else self._witness(key)
        if witness is not None:
            change.as_read(witness.key, witness)
        if left or witness is not None:
            if found.in_value:
                change.put(keys.network(key), _encode(key, found.vni, found.others))
            return
        change.empty(keys.members(key), keys.member(key, self._host))
        if found.others:  # of older drivers; the last of them removes the network
            change.put(keys.network(key), _encode(key, found.vni, found.others, marked=False))
            return
        change.delete(keys.network(key))
        owner = self._kv.get(keys.vni(found.vni))
        if owner is not None and records.decode(owner, records.owner_of_vni) == key:
            change.as_read(owner.key, owner)
            change.delete(owner.key)

    def _read(self, key: NetworkKey) -> _Found:
        shared = self._kv.get(keys.network(key))
        member = self._kv.get(keys.member(key, self._host))
        in_key = records.decode(member, records.network_ids) if member else ()
        if shared is None:
            return _Found(None, None, False, {}, (), member, in_key)
        others = records.decode(shared, records.members)
        marked = others.pop(records.OWN_KEYS, None) is not None
        in_value = others.pop(self._host, ())
        return _Found(shared, records.decode(shared, records.vni), marked, others, in_value,
                      member, in_key)

    def _put(self, key: NetworkKey, found: _Found, ids: tuple[NetworkId, ...],
             change: Transaction) -> None:
        change.as_read(keys.member(key, self._host), found.member)
        change.put(keys.member(key, self._host), records.encode({"ids": list(ids)}))

    def _witness(self, key: NetworkKey) -> Entry | None:
        """Return another host's member key; while it exists, the network has members.

        It is the next key, so that each of many hosts leaving concurrently has a key of its own.
        """
        prefix, own = keys.members(key), keys.member(key, self._host)
        for start, stop in ((own + "\0", ""), (prefix, own)):
            if found := self._kv.range(prefix, start=start, stop=stop, limit=1,
                                       keys_only=True).entries:
                return found[0]
        return None

    def _own(self, vni: Vni, key: NetworkKey, change: Transaction) -> None:
        """Make the VNI belong to the network.  Error: Conflict."""
        owner = self._kv.get(keys.vni(vni))
        if owner is not None and (other := records.decode(owner, records.owner_of_vni)) != key:
            raise Conflict(f"VNI {vni} of network {key} belongs to network {other} in etcd")
        change.as_read(keys.vni(vni), owner)
        if owner is None:
            change.put(keys.vni(vni), records.encode({"key": key}))

    def _free_vni(self, key: NetworkKey) -> Vni:
        """Choose by the name's hash, so networks made concurrently rarely want the same number."""
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


@dataclass(frozen=True)
class _Found:
    """A virtual network as read; `shared` None: there is none."""

    shared: Entry | None
    vni: Vni | None
    marked: bool  # its value says that there are member keys
    others: dict[HostId, tuple[NetworkId, ...]]  # in the value, by older drivers
    in_value: tuple[NetworkId, ...]  # this host's, by an older driver
    member: Entry | None
    in_key: tuple[NetworkId, ...]


def _encode(key: NetworkKey, vni: Vni, others: dict[HostId, tuple[NetworkId, ...]], *,
            marked: bool = True) -> bytes:
    members = {host: list(ids) for host, ids in others.items()}
    return records.encode({"key": key, "vni": vni, "members": {
        **members, **({records.OWN_KEYS: []} if marked else {})}})
