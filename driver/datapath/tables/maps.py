"""Reads and writes the maps, one domain value at a time.

It orders writes so that no program ever sees half of a change; attachments.py attaches programs.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from driver.datapath.loading import bpf
from driver.datapath.loading.load import Loaded
from driver.datapath.tables import entries
from driver.datapath.tables.moves import FlowMover
from driver.datapath.tables.writing import delete, endpoint_keys, write
from driver.model import Endpoint, HostAddress, Vni
from driver.services.ports import SandboxEntry, Veth

# A host's U (network order in memory), or an ifindex; the other one is 0.
FloodTarget = tuple[int, int]


def flood_slots(before: Sequence[FloodTarget | None], targets: Sequence[FloodTarget]
                ) -> list[FloodTarget]:
    """Return `targets`, ordered so that as many as possible keep their slots."""
    missing = Counter(targets)
    slots: list[FloodTarget | None] = []
    for target in (*before[:len(targets)], *[None] * (len(targets) - len(before))):
        stays = target is not None and missing[target] > 0
        slots.append(target if stays else None)
        if target is not None and stays:
            missing[target] -= 1
    rest = missing.elements()
    return [next(rest) if target is None else target for target in slots]


class Maps:
    """Writes the control plane's kernel maps.  Thread-safe."""

    def __init__(self, loaded: Loaded) -> None:
        self._table = loaded.table
        self._hosts, self._over_ipv6 = loaded.hosts, loaded.over_ipv6
        self._mover = FlowMover(loaded)
        self._lock = threading.RLock()
        # Copy of `floods`, by network and index.
        self._floods: dict[Vni, list[FloodTarget | None]] = {}
        # Copy of `ports`, an array: read only once, since walking 65,536 slots is slow.
        self._owners = {int(port): int(leaf.sandbox) for port, leaf
                        in bpf.entries(loaded.table("ports")) if leaf.sandbox}

    # Endpoints of this host, for the overlay path.

    def put_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """Let the endpoint send and receive on the overlay path."""
        with self._lock:
            veths = self._table("veths")
            cookie = entries.veth_cookie(veths, veth)
            write(veths, veths.Key(veth.host_ifindex),
                  entries.veth_entry(veths, endpoint, cookie), f"interface {veth.host_name}")
            for table, key in endpoint_keys(self._table, "endpoints", endpoint):
                write(table, key, entries.delivery(table, endpoint.mac, veth.host_ifindex),
                      f"endpoint {endpoint.id[:12]}")

    def delete_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """Undo put_endpoint.  An address that belongs to another endpoint by now stays.

        host_ifindex 0: the link is gone; entries that name a vanished interface are removed.
        """
        with self._lock:
            for table, key in endpoint_keys(self._table, "endpoints", endpoint):
                found = table.get(key)
                if found is None:
                    continue
                ifindex = int(found.ifindex)
                if ifindex == host_ifindex or (not host_ifindex and not is_there(ifindex)):
                    delete(table, key)
                    self._delete_veth(ifindex)
            if host_ifindex:
                self._delete_veth(host_ifindex)

    def delete_interface(self, host_ifindex: int) -> None:
        """Undo put_endpoint, given only the interface: walks the endpoints."""
        with self._lock:
            for name in ("endpoints", "endpoints6"):
                table = self._table(name)
                for key, leaf in list(bpf.entries(table)):
                    if leaf.ifindex == host_ifindex:
                        delete(table, key)
            self._delete_veth(host_ifindex)

    def _delete_veth(self, ifindex: int) -> None:
        veths = self._table("veths")
        delete(veths, veths.Key(ifindex))

    def endpoint_ifindexes(self) -> set[int]:
        """Return the ifindexes of the host's ends that may send."""
        return {int(key.value) for key in self._table("veths")}

    # Sandboxes and their endpoint ports, for the host path.

    def put_sandbox(self, entry: SandboxEntry) -> None:
        """Enter a sandbox: first what receives, then what sends, last the connect hooks' entry."""
        with self._lock:
            self._put_sandbox6(entry)
            self._clear_ports(entry.cookie, {a.port for a in entry.attachments})
            ports, veths, sandboxes = map(self._table, ("ports", "veths", "sandboxes"))
            for attachment in entry.attachments:
                if attachment.port:  # 0: on the overlay path only
                    self._own_port(attachment.port, entries.port_entry(ports, entry, attachment))
                key = veths.Key(attachment.host_ifindex)
                leaf = veths.get(key)
                if leaf is not None and leaf.sandbox != entry.cookie:
                    leaf.sandbox = entry.cookie
                    write(veths, key, leaf, f"interface {attachment.host_ifindex}")
            key = sandboxes.Key(entry.cookie)
            before = sandboxes.get(key)
            write(sandboxes, key, entries.sandbox_entry(sandboxes, entry), "sandbox")
            if before is not None and before.ifindex != entry.primary_ifindex:
                self._mover.move(entry.cookie, entry.primary_ifindex)

    def _put_sandbox6(self, entry: SandboxEntry) -> None:
        table = self._table("sandboxes6")
        key, leaf = table.Key(entry.cookie), entries.sandbox6_entry(
            table, entry, over_ipv6=self._over_ipv6)
        if leaf is None:
            delete(table, key)
        else:
            write(table, key, leaf, "IPv6 of a sandbox")

    def delete_sandbox(self, cookie: int) -> None:
        """Undo put_sandbox in reverse order.  Its notes stay: it may rejoin a network."""
        with self._lock:
            sandboxes, veths = self._table("sandboxes"), self._table("veths")
            delete(sandboxes, sandboxes.Key(cookie))
            sandboxes6 = self._table("sandboxes6")
            delete(sandboxes6, sandboxes6.Key(cookie))
            for ifindex, leaf in list(bpf.entries(veths)):
                if leaf.sandbox == cookie:
                    leaf.sandbox = 0
                    write(veths, veths.Key(ifindex), leaf, f"interface {ifindex}")
            self._clear_ports(cookie, set())
            withheld = self._table("withheld")
            delete(withheld, withheld.Key(cookie))

    def sandbox_cookies(self) -> set[int]:
        """Return the cookies of all sandboxes that may use the host path."""
        return {int(key.value) for key in self._table("sandboxes")}

    def port_owners(self) -> dict[int, int]:
        """Return endpoint port -> sandbox cookie, for all owned ports."""
        with self._lock:
            return dict(self._owners)

    def _own_port(self, port: int, leaf: Any) -> None:
        ports = self._table("ports")
        key = ports.Key(port)
        before = ports.get(key)
        if before is not None and before.sandbox == leaf.sandbox:  # the programs go on with these
            leaf.assigned, leaf.listens = before.assigned, before.listens
        if before is None or bytes(before) != bytes(leaf):
            ports[key] = leaf
        if leaf.sandbox:
            self._owners[port] = int(leaf.sandbox)
        else:
            self._owners.pop(port, None)

    def _clear_ports(self, cookie: int, keep: set[int]) -> None:
        leaf = self._table("ports").Leaf
        for port, owner in list(self._owners.items()):
            if owner == cookie and port not in keep:
                self._own_port(port, leaf())

    def local_networks(self) -> set[Vni]:
        """Return the networks of all interfaces that may send."""
        return {Vni(int(leaf.vni)) for _, leaf in bpf.entries(self._table("veths"))}

    # Broadcasts.

    def set_flood(self, vni: Vni, hosts: Sequence[HostAddress], ifindexes: Sequence[int]) -> None:
        """Make these a network's broadcast receivers; writes only what has changed.

        A program that walks the list meanwhile may miss a receiver for one packet, or serve one
        twice, but never reads past the end.  Error: DatapathError; the next call writes all.
        """
        targets = [*((self._hosts.number(host), 0) for host in hosts),
                   *((0, ifindex) for ifindex in ifindexes)]
        with self._lock:
            table = self._table("floods")
            before = self._floods.pop(vni, None)
            if before is None:
                count = sum(1 for key in table if key.vni == vni)
                before = [None] * count
            after = flood_slots(before, targets)
            # Backwards from the end: the list never has a gap.
            for index in reversed(range(len(after))):
                if index >= len(before) or before[index] != after[index]:
                    leaf = table.Leaf()
                    leaf.underlay_be, leaf.ifindex = after[index]
                    write(table, _flood_key(table, vni, index), leaf, "broadcast receiver")
            for index in reversed(range(len(after), len(before))):
                delete(table, _flood_key(table, vni, index))
            if after:
                self._floods[vni] = [*after]

    def list_floods(self) -> set[Vni]:
        """Return the networks that have broadcast receivers."""
        with self._lock:
            return {Vni(int(key.vni)) for key in self._table("floods")}


def is_there(ifindex: int) -> bool:
    """Return whether this host has the interface."""
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True


def _flood_key(table: Any, vni: Vni, index: int) -> Any:
    key = table.Key()
    key.vni, key.index = vni, index
    return key
