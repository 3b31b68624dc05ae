"""Owns the order of the datapath's effects: the implementation of ports.Datapath.

What a map entry looks like, how programs are attached and when flows are swept is elsewhere
in this package; what the effects mean to Docker is the services'.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address

from driver.datapath.attachments import Attachments
from driver.datapath.dead_hosts import DeadHosts
from driver.datapath.flows import FlowSweeper
from driver.datapath.handover import Handover
from driver.datapath.load import Loaded
from driver.datapath.maps import Maps
from driver.datapath.programs import KERNEL_FOLDER
from driver.datapath.reasons import read_reasons
from driver.datapath.service_table import ServiceTable
from driver.errors import DatapathError
from driver.model import Endpoint, Vni
from driver.services.ports import SandboxEntry, Veth


class EbpfDatapath:
    """ports.Datapath on kernel maps and programs."""

    def __init__(self, loaded: Loaded, attachments: Attachments,
                 handover: Handover | None = None) -> None:
        """handover: from a driver with another layout of maps, None: there is none to take over."""
        self._loaded = loaded
        self._handover = handover
        self._attachments = attachments
        self._maps = Maps(loaded)
        self._dead_hosts = DeadHosts(loaded)
        self._services = ServiceTable(loaded)
        self._serving = False  # the programs for services' addresses are attached
        self._sweeper = FlowSweeper(loaded, self._maps.port_owners)
        self._reasons = read_reasons(KERNEL_FOLDER)
        # Told of each network's other hosts, after the maps were.
        self.on_hosts: Callable[[Vni, Sequence[IPv4Address]], None] = lambda _vni, _hosts: None

    def start(self, underlay_ifindex: int, vxlan_ifindex: int) -> None:
        """Attach the host's programs and begin to sweep."""
        self._replace(lambda: self._attachments.attach_host(underlay_ifindex, vxlan_ifindex))
        self._serve()
        self._sweeper.start()

    def take_over(self) -> bool:
        """Put this driver's programs in the older ones' place once all maps are filled.

        To be called, now and then, when etcd has been read.  Returns whether it is done.
        """
        if self._handover is None or not self._handover.pending:
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
        else:  # a new one is never without
            self._attachments.attach_veth(ifindex)

    def stop(self) -> None:
        """End this process's part; programs stay attached and connections go on."""
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
            self._maps.put_sandbox(sandbox)
            if self._handover is not None:
                self._handover.adopt(sandbox, sandbox_key)
        except DatapathError:
            self.withdraw_sandbox(sandbox.cookie)
            raise

    def withdraw_sandbox(self, cookie: int) -> None:
        """See ports.Datapath."""
        self._maps.delete_sandbox(cookie)
        self._attachments.detach_sandbox(cookie)
        self._sweeper.ask()

    def sandbox_cookies(self) -> set[int]:
        """Return all sandboxes that have an entry or a link."""
        return self._maps.sandbox_cookies() | self._attachments.sandboxes()

    def endpoint_ifindexes(self) -> set[int]:
        """See ports.Datapath."""
        return self._maps.endpoint_ifindexes()

    def put_remote(self, endpoint: Endpoint) -> None:
        """See ports.Datapath."""
        self._maps.put_remote(endpoint)

    def delete_remote(self, endpoint: Endpoint) -> None:
        """See ports.Datapath."""
        self._maps.delete_remote(endpoint)

    def list_remotes(self) -> Iterable[Endpoint]:
        """See ports.Datapath."""
        return self._maps.list_remotes()

    def set_flood(self, vni: Vni, hosts: Sequence[IPv4Address], ifindexes: Sequence[int]) -> None:
        """See ports.Datapath."""
        self._maps.set_flood(vni, hosts, ifindexes)
        self.on_hosts(vni, hosts)

    def list_floods(self) -> set[Vni]:
        """See ports.Datapath."""
        return self._maps.list_floods()

    def refuse_hosts(self, hosts: Collection[IPv4Address]) -> None:
        """See ports.Datapath."""
        self._dead_hosts.refuse(hosts)

    def put_service(self, vni: Vni, address: IPv4Address, backends: Sequence[IPv4Address]
                    ) -> None:
        """See ports.Datapath."""
        self._services.put(vni, address, backends)
        self._serve()

    def delete_service(self, vni: Vni, address: IPv4Address) -> None:
        """See ports.Datapath."""
        self._services.delete(vni, address)
        self._serve()

    def list_services(self) -> Collection[tuple[Vni, IPv4Address]]:
        """See ports.Datapath."""
        return self._services.names()

    def _serve(self) -> None:
        """Hosts without services are spared a look at each of their datagrams."""
        wanted = not self._services.is_empty()
        if wanted and not self._serving:
            self._replace(self._attachments.attach_services)
        elif not wanted:
            self._attachments.detach_services()
        self._serving = wanted

    def counters(self) -> dict[str, int]:
        """See ports.Datapath."""
        table = self._loaded.table("counters")
        return {reason.name: int(table.sum(table.Key(index)).value)
                for index, reason in enumerate(self._reasons)}

    def sweep_flows(self) -> int:
        """Remove dead flows now; return how many."""
        return self._sweeper.sweep()
