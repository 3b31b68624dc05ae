"""Fakes what a host's kernel holds for slim, in dicts that survive the driver.

Links, Sandboxes and Datapath have fakes over it that behave as the real ones: inverses of what is
not there succeed, and an interface's entries are found by its index.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from driver.errors import LinkError
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.ports import Findings, Listeners, SandboxEntry, Veth, Why

Place = tuple[Vni, object]  # network and address


@dataclass
class Kernel:
    """Everything that outlives a driver, and the disk's notes."""

    links: dict[str, Veth] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)  # host's end -> namespace of the other
    away: set[str] = field(default_factory=set)  # put away inside: dockerd does not find it
    cookies: dict[str, int] = field(default_factory=dict)  # namespaces by path
    rules: set[str] = field(default_factory=set)  # namespaces with the host path's rules
    teardowns: set[str] = field(default_factory=set)  # namespaces with rules still to remove
    joins: dict[EndpointId, str] = field(default_factory=dict)  # sandboxes by endpoint
    notes: dict[str, dict[str, object]] = field(default_factory=dict)  # on the disk, by kind
    complete: set[str] = field(default_factory=set)  # kinds of notes
    veths: set[int] = field(default_factory=set)  # a map: interfaces that may send
    endpoints: dict[Place, int] = field(default_factory=dict)  # map: -> ifindex
    sandboxes: dict[int, SandboxEntry] = field(default_factory=dict)  # map and pinned link
    remotes: dict[Place, tuple[IPv4Address, int, bytes]] = field(default_factory=dict)
    floods: dict[Vni, tuple[tuple[IPv4Address, ...], tuple[int, ...]]] = field(
        default_factory=dict)
    withheld: dict[int, Why] = field(default_factory=dict)  # map
    filtered: set[str] = field(default_factory=set)  # namespaces with packet filter rules
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(100))

    def view(self) -> dict[str, object]:
        """Return what can leak, by names instead of numbers that differ between runs."""
        names = {veth.host_ifindex: name for name, veth in self.links.items()}

        def name(ifindex: int) -> str:
            return names.get(ifindex, "an interface that is gone")

        return {
            "links": sorted(self.links), "rules": sorted(self.rules),
            "teardowns": sorted(self.teardowns), "joins": dict(self.joins),
            "notes": {kind: sorted(notes) for kind, notes in self.notes.items()},
            "veths": sorted(map(name, self.veths)),
            "endpoints": {str(place): name(index) for place, index in self.endpoints.items()},
            "sandboxes": {cookie: (name(entry.primary_ifindex), [
                (each.vni, each.address, name(each.host_ifindex)) for each in sorted(
                    entry.attachments, key=lambda each: each.vni)])
                for cookie, entry in self.sandboxes.items()},
            "withheld": dict(self.withheld),
            "remotes": {str(place): (where[0], bool(where[1]), where[2])
                        for place, where in self.remotes.items()},
            "floods": {vni: (hosts, sorted(map(name, indexes)))
                       for vni, (hosts, indexes) in self.floods.items()},
        }

    def move_in(self, host_name: str, sandbox_key: str) -> None:
        """Do as dockerd after Join: move the container's end inside, and set it up."""
        assert sandbox_key in self.cookies
        assert host_name in self.links, f"{host_name} is not there"
        assert self.inside.get(host_name, sandbox_key) == sandbox_key, "it is inside another one"
        self.inside[host_name] = sandbox_key

    def move_out(self, host_name: str) -> None:
        """Do as dockerd after Leave, which finds the end only under the name that it gave it."""
        if host_name not in self.away:
            self.inside.pop(host_name, None)

    def end_namespace(self, sandbox_key: str) -> None:
        """End the container, and with it what is inside."""
        self.cookies.pop(sandbox_key, None)
        self.rules.discard(sandbox_key)
        for host_name in [n for n, key in self.inside.items() if key == sandbox_key]:
            self.inside.pop(host_name)
            self.links.pop(host_name, None)
            self.away.discard(host_name)


class KernelLinks:
    """Implements ports.Links."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def create_veth(self, endpoint_id: EndpointId, mac: bytes, mtu: int) -> Veth:
        name = self.veth_name(endpoint_id)
        if name not in self._kernel.links:
            self._kernel.links[name] = Veth(name, next(self._kernel.numbers),
                                            "sc" + endpoint_id[:11])
        return self._kernel.links[name]

    def delete_veth(self, endpoint_id: EndpointId) -> None:
        self.delete_veth_named(self.veth_name(endpoint_id))

    def delete_veth_named(self, host_name: str) -> None:
        self._kernel.links.pop(host_name, None)
        self._kernel.inside.pop(host_name, None)
        self._kernel.away.discard(host_name)

    def get_veth(self, endpoint_id: EndpointId) -> Veth | None:
        return self._kernel.links.get(self.veth_name(endpoint_id))

    def list_veths(self) -> dict[str, Veth]:
        return {name: replace(veth, carrier=name in self._kernel.inside
                              and name not in self._kernel.away)
                for name, veth in self._kernel.links.items()}

    def veth_name(self, endpoint_id: EndpointId) -> str:
        return "sl" + endpoint_id[:11]


class DiskNotes:
    """Implements ports.Notes: they outlive a driver, too."""

    def __init__(self, kernel: Kernel, kind: str) -> None:
        self._kernel, self._kind = kernel, kind
        self._notes = kernel.notes.setdefault(kind, {})

    def put(self, name: str, item: object) -> None:
        self._notes[name] = item

    def remove(self, name: str) -> None:
        self._notes.pop(name, None)

    def all(self) -> dict[str, Any]:
        return dict(self._notes)

    def is_complete(self) -> bool:
        return self._kind in self._kernel.complete

    def complete(self) -> None:
        self._kernel.complete.add(self._kind)


class KernelSandboxes:
    """Implements ports.Sandboxes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def cookie(self, sandbox_key: str) -> int | None:
        return self._kernel.cookies.get(sandbox_key)

    def set_up(self, sandbox_key: str, endpoint: Endpoint, veth: Veth, *, underlay: IPv4Address,
               overlay_mtu: int, primary: bool) -> None:
        if self._kernel.inside.get(veth.host_name) != sandbox_key:
            raise LinkError(f"the other end of {veth.host_name} is not inside")
        if primary:
            self._kernel.rules.add(sandbox_key)

    def put_away(self, sandbox_key: str, endpoint: Endpoint, veth: Veth) -> None:
        if self._kernel.inside.get(veth.host_name) != sandbox_key:
            raise LinkError(f"the other end of {veth.host_name} is not inside")
        self._kernel.away.add(veth.host_name)

    def listeners(self, sandbox_key: str) -> Listeners:
        return Listeners(bound=False, keyed=False)

    def tear_down(self, sandbox_key: str, underlay: IPv4Address) -> None:
        self._kernel.rules.discard(sandbox_key)


class KernelTeardowns:
    """Implements ports.Teardowns; outlives a driver, as the kernel does."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def begin(self, sandbox_key: str) -> None:
        self._kernel.teardowns.add(sandbox_key)

    def end(self, sandbox_key: str) -> None:
        self._kernel.teardowns.discard(sandbox_key)

    def outstanding(self) -> list[str]:
        return sorted(self._kernel.teardowns)


class KernelJoins:
    """Implements ports.Joins; outlives a driver, as the kernel does."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def put(self, endpoint_id: EndpointId, sandbox_key: str) -> None:
        self._kernel.joins[endpoint_id] = sandbox_key

    def remove(self, endpoint_id: EndpointId) -> None:
        self._kernel.joins.pop(endpoint_id, None)

    def all(self) -> dict[EndpointId, str]:
        return dict(self._kernel.joins)


class KernelMaps:
    """Implements ports.Datapath, and what reconciling reads (reconcile.Pinned)."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        assert veth.host_name in self._kernel.links, "a program is attached to the link"
        self._kernel.veths.add(veth.host_ifindex)
        for place in _places(endpoint):
            self._kernel.endpoints[place] = veth.host_ifindex

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        alive = {veth.host_ifindex for veth in self._kernel.links.values()}
        for place in _places(endpoint):
            found = self._kernel.endpoints.get(place)
            if found is not None and (
                    found == host_ifindex or (not host_ifindex and found not in alive)):
                del self._kernel.endpoints[place]
                self._kernel.veths.discard(found)
        self._kernel.veths.discard(host_ifindex)

    def withdraw_interface(self, host_ifindex: int) -> None:
        for place in [p for p, i in self._kernel.endpoints.items() if i == host_ifindex]:
            del self._kernel.endpoints[place]
        self._kernel.veths.discard(host_ifindex)

    def endpoint_ifindexes(self) -> set[int]:
        return set(self._kernel.veths)

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        assert self._kernel.cookies.get(sandbox_key) == sandbox.cookie
        self._kernel.sandboxes[sandbox.cookie] = sandbox

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None: ...

    def withdraw_sandbox(self, cookie: int) -> None:
        self._kernel.sandboxes.pop(cookie, None)
        self._kernel.withheld.pop(cookie, None)

    def sandbox_cookies(self) -> set[int]:
        return set(self._kernel.sandboxes)

    def is_gone(self, cookie: int) -> bool:
        return cookie not in self._kernel.cookies.values()

    def owned_ports(self) -> set[int]:
        return {each.port for entry in self._kernel.sandboxes.values()
                for each in entry.attachments if each.port}

    def put_remote(self, endpoint: Endpoint) -> None:
        for place in _places(endpoint):
            self._kernel.remotes[place] = _where(endpoint, place)

    def delete_remote(self, endpoint: Endpoint) -> None:
        for place in _places(endpoint):
            if self._kernel.remotes.get(place) == _where(endpoint, place):
                del self._kernel.remotes[place]

    def list_remotes(self) -> list[Endpoint]:
        return [Endpoint(
            id=EndpointId(""), network_id=NetworkId(""), vni=vni, host=HostId(""),
            underlay=underlay, mac=mac, port=port,
            address=IPv4Interface(address) if isinstance(address, IPv4Address) else None,
            address6=IPv6Interface(address) if isinstance(address, IPv6Address) else None,
            takes_ipv6=isinstance(address, IPv6Address) and port != 0)
            for (vni, address), (underlay, port, mac) in self._kernel.remotes.items()]

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        return False

    def local_networks(self) -> set[Vni]:
        return {vni for (vni, _), ifindex in self._kernel.endpoints.items()
                if ifindex in self._kernel.veths}

    def list_vips(self) -> list[tuple[Vni, IPv4Address]]:
        return []

    def set_flood(self, vni: Vni, hosts: Sequence[IPv4Address],
                  ifindexes: Collection[int]) -> None:
        if hosts or ifindexes:
            self._kernel.floods[vni] = (tuple(hosts), tuple(ifindexes))
        else:
            self._kernel.floods.pop(vni, None)

    def list_floods(self) -> set[Vni]:
        return set(self._kernel.floods)

    def counters(self) -> dict[str, int]:
        return {}


class KernelVerdicts:
    """Implements ports.Verdicts; programs leave no notes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def withhold(self, cookie: int, why: Why) -> None:
        self._kernel.withheld[cookie] = why

    def release(self, cookie: int) -> None:
        self._kernel.withheld.pop(cookie, None)

    def withheld(self) -> list[int]:
        return list(self._kernel.withheld)

    def notes(self) -> dict[int, frozenset[Why]]:
        return {}

    def notes_of(self, cookie: int) -> frozenset[Why]:
        return frozenset()

    def settle_rules(self, cookie: int) -> None:
        pass

    def forget_notes(self, keep: Collection[int]) -> None:
        pass


class KernelInspector:
    """Implements ports.Inspector."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def look(self, sandbox_key: str, members: Sequence[tuple[Endpoint, Veth]], *,
             underlay: IPv4Address, just_set_up: bool = False) -> Findings:
        if any(self._kernel.inside.get(veth.host_name) != sandbox_key for _, veth in members):
            raise LinkError("an interface is not inside")
        return Findings(own_rules="a rule" if sandbox_key in self._kernel.filtered else "")


class KernelWatch:
    """Implements ports.Watch; it belongs to one process of the driver."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.watched: set[str] = set()

    def add(self, sandbox_key: str) -> None:
        if sandbox_key not in self._kernel.cookies:
            raise LinkError("no such namespace")
        self.watched.add(sandbox_key)

    def remove(self, sandbox_key: str) -> None:
        self.watched.discard(sandbox_key)

    def sweep(self) -> None:
        self.watched &= set(self._kernel.cookies)


def _where(endpoint: Endpoint, place: Place) -> tuple[IPv4Address, int, bytes]:
    by_port = isinstance(place[1], IPv4Address) or endpoint.takes_ipv6
    return endpoint.underlay, endpoint.port if by_port else 0, endpoint.mac


def _places(endpoint: Endpoint) -> list[Place]:
    return [(endpoint.vni, address.ip) for address in (endpoint.address, endpoint.address6)
            if address is not None]
