"""Knows who is who at the moment of a question: containers, networks, addresses and hosts.

Names come from Docker as it was last heard, else from records; without either, ids are shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Protocol

from driver.errors import Conflict, NotFound
from driver.model import Endpoint, HostAddress, Network, NetworkId, Vni
from driver.services.names.spelling import spelled
from driver.services.names.table import Named
from driver.services.ports import Address, NamesView
from driver.work.shown import some_of

ID_SHOWN: Final = 12  # digits, as the docker command shows ids
_ID_LEAST: Final = 3  # digits of an id that name it
_HEX: Final = re.compile(r"[0-9a-f]{3,64}")


class KnownNames(Protocol):
    """services.names.table.NameTable, as far as it is needed here."""

    def find(self, vni: Vni, key: str | Address) -> list[Named]:
        """Return the network's endpoints of a name, or address."""

    def all(self, vni: Vni) -> list[Named]:
        """Return the network's endpoints that have a name."""


@dataclass(frozen=True)
class Resident:
    """A container of this host with its endpoints in slim networks."""

    name: str  # what Docker calls it; else its first endpoint's short id
    names: frozenset[str]  # all by which it may be asked for, as `spelled` spells them
    sandbox_key: str
    endpoints: tuple[Endpoint, ...]

    def has_id(self, digits: str) -> bool:
        """Return whether an id of it, or of an endpoint, begins so; at least three digits."""
        ids = [each.id for each in self.endpoints] + [
            each for each in self.names if len(each) == ID_SHOWN and _HEX.fullmatch(each)]
        return bool(_HEX.fullmatch(digits)) and any(
            each.startswith(digits) or (len(each) == ID_SHOWN and digits.startswith(each))
            for each in ids)

    def vni_of(self, own: Address) -> Vni | None:
        """Return the network in which it has this address."""
        return next((endpoint.vni for endpoint in self.endpoints
                     for each in (endpoint.address, endpoint.address6)
                     if each is not None and each.ip == own), None)

    def is_inside(self, vni: Vni, address: Address) -> bool:
        """Return whether an address is in the subnet of its endpoint in a network."""
        return any(each is not None and address in each.network
                   for endpoint in self.endpoints if endpoint.vni == vni
                   for each in (endpoint.address, endpoint.address6))


@dataclass(frozen=True)
class Sources:
    """What a roster is made from."""

    endpoints: Callable[[], Iterable[Endpoint]]  # this host's
    networks: Callable[[], Sequence[Network]]  # this host's
    view: Callable[[], NamesView]  # Docker's names, as last seen
    table: KnownNames
    host_name: Callable[[HostAddress], str]  # of a U, for people
    underlay: HostAddress  # U of this host


class Roster:
    """The state of one moment."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._view = sources.view()
        self.networks = list(sources.networks())
        self._by_vni = {network.vni: network for network in self.networks}
        self.residents = _residents(sources.endpoints(), self._view)
        self._here = {(endpoint.vni, each.ip): resident for resident in self.residents
                      for endpoint in resident.endpoints
                      for each in (endpoint.address, endpoint.address6) if each is not None}
        self._names: dict[tuple[Vni, Address], str] = {}

    def resident(self, text: str) -> Resident:
        """Return this host's container of a name or id.  Errors: NotFound, Conflict."""
        name = spelled(text)
        for found in ([each for each in self.residents if each.name == text],
                      [each for each in self.residents if name and name in each.names],
                      [each for each in self.residents if each.has_id(text)]):
            if len(found) == 1:
                return found[0]
            if found:
                raise Conflict(f"{text!r} may be {' or '.join(each.name for each in found)}: "
                               "say more of it")
        raise NotFound(f"no container {text!r} is in a slim network on this host; "
                       + self.who_is_here())

    def who_is_here(self) -> str:
        """Name this host's containers, for an error's end."""
        if not self.residents:
            return "no other one is, either"
        return f"there are {some_of([each.name for each in self.residents], ', ')}"

    def network(self, text: str) -> Network:
        """Return this host's network of a name, subnet or id.  Error: NotFound."""
        for network in self.networks:
            if text in (self.called(network), *network.subnets) or (
                    len(text) >= _ID_LEAST and network.id.startswith(text)):
                return network
        known = some_of(sorted(map(self.called, self.networks)), ", ")
        raise NotFound(f"no slim network {text!r} is on this host; "
                       + (f"there are {known}" if known else "there is none"))

    def called(self, network: Network) -> str:
        """Return what Docker calls a network; else its short id."""
        return self._view.networks.get(NetworkId(network.id), network.id[:ID_SHOWN])

    def network_name(self, vni: Vni) -> str:
        """Return the same by its number."""
        network = self._by_vni.get(vni)
        return f"VNI {vni}" if network is None else self.called(network)

    def network_with(self, address: Address) -> str:
        """Return the name of this host's network whose subnet has an address; "": none has."""
        return next((self.called(network) for network in self.networks
                     for subnet in network.subnets
                     if ip_network(subnet).version == address.version
                     and address in ip_network(subnet)), "")

    def resident_at(self, vni: Vni, address: Address) -> Resident | None:
        """Return this host's container that has an address in a network."""
        return self._here.get((vni, address))

    def name_at(self, vni: Vni, address: Address) -> str:
        """Return the name of the container that has an address, on any host; "": not known."""
        resident = self.resident_at(vni, address)
        if resident is not None:
            return resident.name
        if (vni, address) not in self._names:
            found = self._sources.table.find(vni, address)
            self._names[vni, address] = found[0].names[0] if found else ""
        return self._names[vni, address]

    def find(self, vni: Vni, text: str) -> list[Address]:
        """Return the addresses in a network, on any host, of all that a name or id names."""
        name = spelled(text)
        here = [each for each in self.residents
                if each.name == text or (name and name in each.names) or each.has_id(text)]
        found: list[Address] = [each.ip for resident in here for endpoint in resident.endpoints
                                if endpoint.vni == vni
                                for each in (endpoint.address, endpoint.address6)
                                if each is not None]
        found += [each for named in (self._sources.table.find(vni, name) if name else ())
                  for each in (named.address, named.address6) if each is not None]
        return list(dict.fromkeys(found))

    def hosts_of(self, text: str) -> list[str]:
        """Return the other hosts that have a container of that name in one of our networks."""
        name = spelled(text)
        found = {named.underlay for network in self.networks
                 for named in (self._sources.table.find(network.vni, name) if name else ())}
        return sorted(self.host_name(each) for each in found - {self._sources.underlay})

    def host_name(self, host: HostAddress) -> str:
        """Return a host's name and address, for people."""
        return "this host" if host == self._sources.underlay else self._sources.host_name(host)

    @property
    def over_ipv6(self) -> bool:
        """Whether the underlay has IPv6."""
        return self._sources.underlay.version == 6

    def is_this_host(self, host: HostAddress) -> bool:
        """Return whether a U is this host's."""
        return host == self._sources.underlay


def _residents(endpoints: Iterable[Endpoint], view: NamesView) -> list[Resident]:
    """Return the containers whose endpoints have joined, in the order of their names."""
    called = {endpoint_id: (container.name, names) for container in view.containers
              for endpoint_id, names in container.names.items()}
    by_key: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        if endpoint.sandbox_key:
            by_key.setdefault(endpoint.sandbox_key, []).append(endpoint)
    found = []
    for key, members in by_key.items():
        names = {name for each in members for name in each.names}
        names |= {spelled(name) for each in members if each.id in called
                  for name in called[each.id][1]}
        own = [called[each.id][0] for each in members if each.id in called] + [
            each.names[0] for each in members if each.names] + [members[0].id[:ID_SHOWN]]
        found.append(Resident(own[0], frozenset(names - {""}), key, tuple(
            sorted(members, key=lambda each: each.vni))))
    return sorted(found, key=lambda each: (each.name, each.sandbox_key))
