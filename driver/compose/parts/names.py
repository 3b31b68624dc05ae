"""Builds what gives containers names beyond their host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from driver.compose.parts.ground import Ground
from driver.compose.parts.part import Part
from driver.datapath.code.programs import NAME_QUERY
from driver.datapath.tables.names_map import NamesMap
from driver.dns.client import Counts
from driver.dns.server import NameServer
from driver.engine.names import DockerEvents, DockerNames
from driver.errors import SlimError
from driver.link.sandbox.resolving import Resolving
from driver.model import SWARM_ID_LENGTH, Endpoint, EndpointId, HostAddress
from driver.services.directory.publisher import Publisher
from driver.services.names.publisher import NamePublisher
from driver.services.names.resolver import Resolver
from driver.services.names.serving import NameServing
from driver.services.names.table import NameTable
from driver.services.ports import NamesView


class NameParts:
    """What knows names, what serves them, and what it can say."""

    def __init__(self, ground: Ground, publisher: Publisher) -> None:
        """Without Docker's socket names are not served, and this host's containers have none."""
        socket = ground.settings.docker_socket
        self._ground = ground
        self._socket = socket
        self.table = NameTable(publisher, publisher.has)
        self._named = NamePublisher(DockerNames(socket), ground.stores.endpoints.list,
                                    self._set_names, ground.ledger, self._has_names)
        resolver = Resolver(self.table, self.view, self._has_names)
        self._server = NameServer(resolver.resolve, NamesMap(ground.kernel.loaded).renew)
        self.serving = NameServing(
            Resolving(ground.kernel.loaded.programs[NAME_QUERY.name], ground.netns_path),
            self._server, resolver, ground.ledger) if socket else None
        self.set_names: Callable[[EndpointId, tuple[str, ...]], None] = lambda _id, _names: None

    def view(self) -> NamesView:
        """Return what this host's Docker calls its containers, as last heard."""
        return self._named.view

    def parts(self) -> Sequence[Part]:
        """Return what runs."""
        if not self._socket:
            return ()
        events = DockerEvents(self._socket, self._named.ask_soon)
        return (Part("name server", self._server.start, self._server.stop),
                Part("names", events.start, events.stop))

    def counts(self) -> Counts:
        """Return how many queries there were, and how they ended."""
        return self._server.counts()

    def describe(self) -> str:
        """Say for the status whether names work here."""
        if self.serving is None:
            return "off: no --docker-socket"
        counts = self._server.counts()
        return (f"served in {self.serving.count()} sandboxes; {counts.answered} answered, "
                f"{counts.forwarded} forwarded, {counts.refused} refused, {counts.failed} failed, "
                f"{counts.late} late")

    def list_names(self, name_of_host: Callable[[HostAddress], str]) -> list[dict[str, str]]:
        """List the endpoints of this host's networks that have names."""
        called = self._named.view.networks
        return [{"Network": called.get(network.id, network.id[:12]), "NetworkID": network.id,
                 "Subnets": " ".join(network.subnets), "Names": " ".join(named.names),
                 "Address": " ".join(str(each) for each in (named.address, named.address6) if each),
                 "Host": name_of_host(named.underlay)}
                for network in sorted(self._ground.stores.networks.list(),
                                      key=lambda each: each.vni)
                for named in self.table.all(network.vni)]

    def _has_names(self, endpoint: Endpoint) -> bool:
        try:
            network = self._ground.stores.networks.get(endpoint.network_id)
        except SlimError:  # its notes are not complete yet, and its host path must not wait
            return False
        # A swarm's tasks are known to Docker's name server on every host.
        return (network is not None and network.names
                and len(network.id) != SWARM_ID_LENGTH)

    def _set_names(self, endpoint_id: EndpointId, names: tuple[str, ...]) -> None:
        self.set_names(endpoint_id, names)
