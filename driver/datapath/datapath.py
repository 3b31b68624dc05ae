"""Implements ports.Datapath: decides the order of the datapath's effects.

Other modules of this package lay out map entries, attach programs and sweep flows; what the
effects mean to Docker is decided by the services.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address

from driver.datapath.attachments import Attachments
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.code.reasons import read_reasons
from driver.datapath.handover import Handover
from driver.datapath.loading.load import Loaded
from driver.datapath.tables.dead_hosts import DeadHosts
from driver.datapath.tables.flows import LOST_NS, FlowSweeper, Name
from driver.datapath.tables.maps import Maps, is_there
from driver.datapath.tables.remotes import Remotes
from driver.datapath.tables.usage import usage
from driver.datapath.tables.vip_table import VipTable
from driver.datapath.tables.withheld import WithheldMaps
from driver.errors import DatapathError
from driver.model import Endpoint, HostAddress, Vni
from driver.services.ports import SandboxEntry, Veth

# A flow's Name with its peer's address in place of U: the bytes of an IPv4 or IPv6 address.
WireName = tuple[bytes, int, int]
# SandboxKey, its namespace's cookie, connections' names -> those without a socket.
LostSockets = Callable[[str, int, Collection[WireName]], Collection[WireName]]


class EbpfDatapath:
    """ports.Datapath on kernel maps and programs."""

    def __init__(self, loaded: Loaded, attachments: Attachments,
                 handover: Handover | None = None,
                 lost_sockets: LostSockets = lambda _key, _cookie, _names: ()) -> None:
        """handover: from a driver with another layout of maps; None: nothing to take over.

        lost_sockets: finds a sandbox's connections that no longer have a socket.
        """
        self._loaded = loaded
        self._handover = handover
        self._attachments = attachments
        self._maps = Maps(loaded)
        self._remotes = Remotes(loaded)
        self._dead_hosts = DeadHosts(loaded)
        self._vips = VipTable(loaded)
        self._withheld = WithheldMaps(loaded)
        self._serving = False  # the programs for vips are attached
        self._lost_sockets = lost_sockets
        self._sandbox_keys: dict[int, str] = {}  # by cookie: those that this process published
        self._host_ifindexes: tuple[int, ...] = ()  # underlay, VXLAN device
        self._sweeper = FlowSweeper(loaded, self._maps.port_owners, lost=self._lost_flows)
        self._reasons = read_reasons(KERNEL_FOLDER)
        # Called with each network's other hosts, after the maps are updated.
        self.on_hosts: Callable[[Vni, Sequence[HostAddress]], None] = lambda _vni, _hosts: None

    def start(self, underlay_ifindex: int, vxlan_ifindex: int) -> None:
        """Attach the host's programs and begin to sweep."""
        self._host_ifindexes = underlay_ifindex, vxlan_ifindex
        self._replace(lambda: self._attachments.attach_host(underlay_ifindex, vxlan_ifindex))
        self._serve()
        self._sweeper.start()

    def reattach(self, ifindex: int) -> bool:
        """Attach again what was on an interface (0: the host's).  Error: LinkError.

        False: nothing of ours was there, or the interface is gone with its container.
        """
        if ifindex in (0, *self._host_ifindexes):
            self._replace(lambda: self._attachments.attach_host(*self._host_ifindexes))
        elif ifindex in self.endpoint_ifindexes() and is_there(ifindex):
            self._attach_veth(ifindex)
        else:
            return False
        return True

    def take_over(self) -> bool:
        """Replace the older driver's programs with this driver's, once all maps are filled.

        Call it repeatedly, after etcd has been read.  Returns whether it is done.
        """
        if self._handover is None:
            return True
        if not self._handover.pending:
            self._handover.follow_up(self._loaded)
            return True
        if not self._handover.ready(self._attachments.sandboxes()):
            return False
        self._handover.complete(self._loaded)
        return True

    def _replace(self, act: Callable[[], None]) -> None:
        if self._handover is None:
            act()
        else:
            self._handover.replace(act)

    def _attach_veth(self, ifindex: int) -> None:
        pending = self._handover is not None and self._handover.pending
        if pending and self._attachments.has_filter(ifindex):
            self._replace(lambda: self._attachments.attach_veth(ifindex))
        else:  # a new interface is never without a program
            self._attachments.attach_veth(ifindex)

    def stop(self) -> None:
        """Stop this process's part; programs stay attached and connections continue."""
        self._sweeper.stop()

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Datapath."""
        self._maps.put_endpoint(endpoint, veth)
        try:
            self._attach_veth(veth.host_ifindex)
        except Exception:
            self._maps.delete_endpoint(endpoint, veth.host_ifindex)
            raise

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """See ports.Datapath.  The filter goes with its interface."""
        self._maps.delete_endpoint(endpoint, host_ifindex)
        self._sweeper.ask()

    def withdraw_interface(self, host_ifindex: int) -> None:
        """See ports.Datapath."""
        self._maps.delete_interface(host_ifindex)
        self._sweeper.ask()

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        """See ports.Datapath."""
        self._replace(lambda: self._attachments.attach_sandbox(sandbox.cookie, sandbox_key))
        try:
            self._sandbox_keys[sandbox.cookie] = sandbox_key
            self._maps.put_sandbox(sandbox)
            if self._handover is not None:
                self._handover.adopt(sandbox, sandbox_key)
        except DatapathError:
            self.withdraw_sandbox(sandbox.cookie)
            raise

    def withdraw_sandbox(self, cookie: int) -> None:
        """See ports.Datapath."""
        self._sandbox_keys.pop(cookie, None)
        self._maps.delete_sandbox(cookie)
        self._attachments.detach_sandbox(cookie)
        self._sweeper.ask()

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None:
        """See ports.Datapath."""
        self._withheld.note_listeners(cookie, bound=bound, keyed=keyed)

    def sandbox_cookies(self) -> set[int]:
        """Return all sandboxes that have an entry or a link."""
        return self._maps.sandbox_cookies() | self._attachments.sandboxes()

    def is_gone(self, cookie: int) -> bool:
        """See reconcile.Pinned.  Error: DatapathError."""
        return self._attachments.is_gone(cookie)

    def owned_ports(self) -> set[int]:
        """See reconcile.Pinned."""
        return set(self._maps.port_owners())

    def endpoint_ifindexes(self) -> set[int]:
        """See ports.Datapath."""
        return self._maps.endpoint_ifindexes()

    def put_remote(self, endpoint: Endpoint) -> None:
        """See ports.Datapath."""
        self._remotes.put(endpoint)

    def delete_remote(self, endpoint: Endpoint) -> None:
        """See ports.Datapath."""
        self._remotes.delete(endpoint)

    def list_remotes(self) -> Iterable[Endpoint]:
        """See ports.Datapath."""
        return self._remotes.list()

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        """See ports.Datapath."""
        return self._remotes.has_lost_its_port(endpoint)

    def local_networks(self) -> set[Vni]:
        """See ports.Datapath."""
        return self._maps.local_networks()

    def set_flood(self, vni: Vni, hosts: Sequence[HostAddress], ifindexes: Sequence[int]) -> None:
        """See ports.Datapath."""
        self._maps.set_flood(vni, hosts, ifindexes)
        self.on_hosts(vni, hosts)

    def list_floods(self) -> set[Vni]:
        """See ports.Datapath."""
        return self._maps.list_floods()

    def refuse_hosts(self, hosts: Collection[HostAddress]) -> None:
        """See ports.Datapath."""
        self._dead_hosts.refuse(hosts)

    def put_vip(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]
                    ) -> None:
        """See ports.Datapath."""
        self._vips.put(vni, address, backends)
        self._serve()

    def delete_vip(self, vni: Vni, address: IPv4Address) -> None:
        """See ports.Datapath."""
        self._vips.delete(vni, address)
        self._serve()

    def sweep_vips(self) -> None:
        """Remove what services' addresses have left.  For a caller that comes at intervals."""
        self._vips.sweep()

    def list_vips(self) -> Collection[tuple[Vni, IPv4Address]]:
        """See ports.Datapath."""
        return self._vips.names()

    def _serve(self) -> None:
        """Hosts without services are spared a look at each of their datagrams."""
        wanted = not self._vips.is_empty()
        if wanted and not self._serving:
            self._replace(self._attachments.attach_vips)
        elif not wanted:
            self._attachments.detach_vips()
        self._serving = wanted

    def counters(self) -> dict[str, int]:
        """See ports.Datapath."""
        table = self._loaded.table("counters")
        return {reason.name: sum(table[table.Key(index)])
                for index, reason in enumerate(self._reasons)}

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return entries and room of the maps that are cheap to count.  Error: DatapathError."""
        return usage(self._loaded)

    def sweep_flows(self) -> int:
        """Remove dead flows now; return how many."""
        return self._sweeper.sweep()

    def sweep_lost_flows(self, older_ns: int = LOST_NS) -> int:
        """Remove open flows without a socket now; return how many.  See FlowSweeper."""
        return self._sweeper.sweep_lost(older_ns)

    def _lost_flows(self, cookie: int, names: Collection[Name]) -> Collection[Name]:
        key = self._sandbox_keys.get(cookie)
        if key is None:
            return ()
        hosts = {peer_be: self._loaded.hosts.address(peer_be) for peer_be, *_ in names}
        by_wire = {(host.packed, peer_port, own_port): (peer_be, peer_port, own_port)
                   for peer_be, peer_port, own_port in names
                   if (host := hosts[peer_be]) is not None}
        return {by_wire[wire] for wire in self._lost_sockets(key, cookie, by_wire.keys())}
