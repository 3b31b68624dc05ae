"""Two hosts as one of them sees them: its containers, the maps, and sockets; all of it fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

from driver.errors import LinkError
from driver.model import Endpoint, EndpointId, HostId, Network, NetworkId, NetworkKey, Vni
from driver.services.names.table import Named
from driver.services.ports import (
    Address,
    Attachment,
    Container,
    FlowName,
    Location,
    Names,
    NamesView,
    OpenSocket,
)
from driver.services.seeing.connections import Connections
from driver.services.seeing.roster import Sources
from driver.services.seeing.why import Inside, Why

HERE, THERE = IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2")
APP, BACK = Vni(1), Vni(2)
NETWORKS = (
    Network(NetworkId("a0" * 32), NetworkKey("pool:10.32.0.0/16"), APP,
            ("10.32.0.0/16", "fd00:32::/64")),
    Network(NetworkId("b0" * 32), NetworkKey("pool:10.33.0.0/16"), BACK, ("10.33.0.0/16",)))


def endpoint(digits: str, address: str, *, vni: Vni = APP, address6: str = "", key: str = "",
             names: tuple[str, ...] = (), port: int = 61000, host: IPv4Address = HERE) -> Endpoint:
    network = next(each for each in NETWORKS if each.vni == vni)
    return Endpoint(
        id=EndpointId(digits * 32), network_id=network.id, vni=vni, host=HostId("h"),
        underlay=host, mac=b"\2aaaaa", address=IPv4Interface(address) if address else None,
        address6=IPv6Interface(address6) if address6 else None, port=port,
        sandbox_key=key or f"/netns/{digits}", names=names, takes_ipv6=bool(address6))


def socket(local: str, peer: str, *, state: str = "ESTAB", storages: dict[int, bytes] | None = None,
           **more: int) -> OpenSocket:
    """Ends as in ss: address:port."""
    (own, own_port), (other, other_port) = (each.rsplit(":", 1) for each in (local, peer))
    return OpenSocket(ip_address(own.strip("[]")), int(own_port), ip_address(other.strip("[]")),
                      int(other_port), state, storages or {}, **more)


class Table:
    """roster.KnownNames."""

    def __init__(self) -> None:
        self.named: list[tuple[Vni, Named]] = []

    def find(self, vni: Vni, key: str | Address) -> list[Named]:
        return [each for at, each in self.named if at == vni and key in each.found_by()]

    def all(self, vni: Vni) -> list[Named]:
        return [each for at, each in self.named if at == vni]


@dataclass
class Maps:
    """ports.Lookups."""

    sandboxes: dict[int, tuple[Attachment, ...]] = field(default_factory=dict)
    directory: dict[tuple[Vni, Address], Location] = field(default_factory=dict)
    services: dict[tuple[Vni, Address], tuple[IPv4Address, ...]] = field(default_factory=dict)
    reverse: dict[tuple[IPv4Address, int], tuple[Vni, IPv4Address]] = field(default_factory=dict)
    kept_off: dict[int, str] = field(default_factory=dict)
    with_options: set[int] = field(default_factory=set)
    greedy: set[int] = field(default_factory=set)
    dead: set[IPv4Address] = field(default_factory=set)
    blocked: set[IPv4Address] = field(default_factory=set)
    flows: dict[FlowName, float] = field(default_factory=dict)

    def attachments(self, cookie: int) -> tuple[Attachment, ...] | None:
        return self.sandboxes.get(cookie)

    def location(self, vni: Vni, address: Address) -> Location | None:
        return self.directory.get((vni, address))

    def is_here(self, vni: Vni, address: Address) -> bool:
        at = self.location(vni, address)
        return at is not None and at.host == HERE

    def tasks(self, vni: Vni, address: IPv4Address) -> tuple[IPv4Address, ...] | None:
        return self.services.get((vni, address))

    def endpoint_of(self, host: IPv4Address, port: int) -> tuple[Vni, IPv4Address] | None:
        return self.reverse.get((host, port))

    def withheld(self, cookie: int) -> str | None:
        return self.kept_off.get(cookie)

    def has_ipv6_options(self, cookie: int) -> bool:
        return cookie in self.with_options

    def share_used(self, cookie: int) -> bool:
        return cookie in self.greedy

    def is_dead(self, host: IPv4Address) -> bool:
        return host in self.dead

    def is_blocked(self, host: IPv4Address) -> bool:
        return host in self.blocked

    def age_s(self, flow: FlowName) -> float | None:
        return self.flows.get(flow)


class World:
    """`client` (10.32.0.2, fd00:32::2) is here, and `web` (10.32.0.6, fd00:32::6) there."""

    def __init__(self) -> None:
        self.maps = Maps()
        self.table = Table()
        self.endpoints: list[Endpoint] = []
        self.containers: list[Container] = []
        self.open: dict[str, list[OpenSocket]] = {}  # by sandbox key
        self.broken: dict[str, str] = {}
        self.gone: set[str] = set()
        self.stored: list[tuple[OpenSocket, Names]] = []
        self.called_services: list[tuple[OpenSocket, IPv4Address]] = []
        self.only_ipv6: set[str] = set()
        self.switched_off: set[EndpointId] = set()
        self.detail = self.trouble = ""
        self.underlay: IPv4Address | IPv6Address = HERE
        self.now_s = 0.0
        self.on_read: Callable[[], None] = lambda: None
        self.client = self.add("client", endpoint("c0", "10.32.0.2/16", address6="fd00:32::2/64"))
        self.web = self.elsewhere("web", endpoint(
            "d0", "10.32.0.6/16", address6="fd00:32::6/64", port=61005, host=THERE))

    def cookie(self, key: str) -> int | None:
        return None if key in self.gone else sum(key.encode())

    def add(self, name: str, *endpoints: Endpoint) -> Endpoint:
        """A container of this host that is finished."""
        self.endpoints += endpoints
        if name:
            self.containers.append(Container(name, {
                each.id: frozenset({name, each.id[:12]}) for each in endpoints}, frozenset()))
        cookie = self.cookie(endpoints[0].sandbox_key)
        assert cookie is not None
        self.maps.sandboxes[cookie] = tuple(
            Attachment(each.vni, each.address, each.port, 7, each.address6) for each in endpoints
            if each.address is not None)
        for each in endpoints:
            self._enter(each)
        return endpoints[0]

    def elsewhere(self, name: str, there: Endpoint) -> Endpoint:
        """A container of the other host."""
        self.table.named.append((there.vni, Named(
            (name,), there.address.ip if there.address else None,
            there.address6.ip if there.address6 else None, there.underlay)))
        self._enter(there)
        return there

    def _enter(self, each: Endpoint) -> None:
        for address in (each.address, each.address6):
            if address is not None:
                self.maps.directory[each.vni, address.ip] = Location(each.underlay, each.port)
        if each.address is not None:
            self.maps.reverse[each.underlay, each.port] = each.vni, each.address.ip

    @property
    def client_cookie(self) -> int:
        found = self.cookie(self.client.sandbox_key)
        assert found is not None
        return found

    # ports.Sockets, ports.SocketNames
    def read(self, key: str, take: Callable[[OpenSocket], bool], *, listening: bool) -> bool:
        self.on_read()
        if key in self.gone:
            return False
        if key in self.broken:
            raise LinkError(self.broken[key])
        for each in self.open.get(key, ()):
            if (each.state == "LISTEN") is listening and not take(each):
                break
        return True

    def ipv6_only(self, key: str) -> bool:
        return key in self.only_ipv6

    def names(self, one: OpenSocket) -> Names | None:
        return next((names for each, names in self.stored if each is one), None)

    def called(self, one: OpenSocket) -> IPv4Address | None:
        return next((address for each, address in self.called_services if each is one),
                    None)

    # The use cases.
    @property
    def sources(self) -> Sources:
        def endpoints() -> Iterable[Endpoint]:
            return self.endpoints

        return Sources(endpoints, lambda: NETWORKS, lambda: NamesView(
            tuple(self.containers), {NETWORKS[0].id: "app", NETWORKS[1].id: "back"}, {}),
            self.table, lambda host: f"node2 ({host})", self.underlay)

    @property
    def connections(self) -> Connections:
        return Connections(self.sources, self, self, self.maps, clock=lambda: self.now_s)

    @property
    def why(self) -> Why:
        return Why(self.sources, self.maps, self, Inside(
            cookie=self.cookie, meanings={"own_rules": "the container has rules"},
            detail=lambda _endpoint, _reason: self.detail,
            uses_host_path=lambda each: each.id not in self.switched_off,
            trouble=lambda _host: self.trouble))
