"""What `slim ss` and `slim why` see on a machine of the datapath tests."""

from __future__ import annotations

from driver.datapath.code.reasons import read_reasons
from driver.datapath.tables.lookups import MapLookups
from driver.datapath.tables.socket_names import StoredNames
from driver.link.sandbox.open_sockets import DiagSockets
from driver.model import Endpoint, Network, NetworkId, NetworkKey, Vni
from driver.services.names.table import Named
from driver.services.ports import Address, NamesView, Path, SocketFilter
from driver.services.seeing.connections import Connection, Connections, Listing
from driver.services.seeing.roster import Sources
from driver.services.seeing.why import Answer, Inside, Way, Why
from tests.support.world.machines import Container, Machine


class _NoNames:
    def find(self, _vni: Vni, _key: str | Address) -> list[Named]:
        return []

    def all(self, _vni: Vni) -> list[Named]:
        return []


class Eyes:
    """A machine's own view; containers are known by their endpoints' ids."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.also: list[Endpoint] = []  # what the driver believes to be there, too
        reasons = read_reasons()
        lookups = MapLookups(machine.loaded, [each.name for each in reasons])
        stored = StoredNames(machine.loaded)
        sockets = DiagSockets(stored.descriptors)
        self.sources = sources = Sources(
            self._endpoints, self._networks, lambda: NamesView((), {}, {}), _NoNames(),
            str, machine.underlay)
        self.connections = Connections(sources, sockets, stored, lookups)
        self._why = Why(sources, lookups, sockets, Inside(
            machine.sandboxes.cookie, {each.name: each.meaning for each in reasons},
            lambda _endpoint, _reason: "", lambda _endpoint: True, lambda _host: ""))

    def _endpoints(self) -> list[Endpoint]:
        return [endpoint for container in self._machine.containers
                for endpoint, _ in container.endpoints] + self.also

    def _networks(self) -> list[Network]:
        found = {endpoint.vni: endpoint for endpoint in self._endpoints()}
        return [Network(NetworkId(f"{vni:064x}"), NetworkKey(f"id:{vni}"), vni, tuple(
            str(each.network) for each in (endpoint.address, endpoint.address6) if each))
            for vni, endpoint in found.items()]

    def listing(self, container: Container | None = None, **wanted: bool | Path) -> Listing:
        return self.connections.list(SocketFilter(
            container.endpoints[0][0].id if container else "",
            **wanted))  # type: ignore[arg-type]

    def connection(self, container: Container, **wanted: bool | Path) -> Connection:
        """Return the only connection of a container."""
        listing = self.listing(container, **wanted)
        assert (listing.more, listing.unread) == ({}, {})
        found, = listing.connections
        return found

    def why(self, container: Container, target: str) -> Answer:
        return self.ask(container.endpoints[0][0].id, target)

    def ask(self, endpoint: str, target: str) -> Answer:
        return self._why.ask(endpoint, target)

    def way(self, container: Container, target: str) -> Way:
        found, = self.why(container, target).ways
        return found


def ends(found: Connection) -> list[str]:
    """Return a connection's names as talk.py's programs print theirs."""
    return [str(found.local), str(found.local_port), str(found.peer), str(found.peer_port)]
