"""Takes an endpoint on this host through create, join, leave and delete, in that order.

dockerd itself moves the interface into the sandbox, after Join has answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Protocol

from driver.errors import Conflict, LinkError, NotFound, StoreUnavailable
from driver.model import Endpoint, EndpointId, Host, HostPath, Network, NetworkId
from driver.services.endpoints.links import EndpointLinks
from driver.services.endpoints.ports import EndpointPorts
from driver.services.endpoints.requests import (
    DST_PREFIX,
    EndpointRequest,
    InterfaceNames,
    check_ifname,
    choose_mac,
    same,
)
from driver.services.notes.own import OwnEndpoints
from driver.services.ports import Networks, SandboxFinisher, Veth
from driver.services.sandboxes.standing import choose
from driver.work.ledger import Ledger
from driver.work.locks import KeyedLocks
from driver.work.undo import Step, Undo, run_all

log = logging.getLogger(__name__)


class EndpointPublisher(Protocol):
    """The part of ports.Datapath that these use cases need."""

    def publish_endpoint(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.Datapath."""

    def withdraw_endpoint(self, endpoint: Endpoint, host_ifindex: int) -> None:
        """See ports.Datapath."""


class EndpointService:
    """The use cases of one endpoint; each is idempotent."""

    def __init__(self, *, host: Host, networks: Networks, endpoints: OwnEndpoints,
                 links: EndpointLinks, datapath: EndpointPublisher, finisher: SandboxFinisher,
                 ports: EndpointPorts, random_bytes: Callable[[int], bytes],
                 underlay_mtu: Callable[[], int], has_host_path: bool = True,
                 ledger: Ledger | None = None) -> None:
        """random_bytes: for MACs.  underlay_mtu: in bytes.

        has_host_path: False: this host cannot offer one, whatever its underlay.

        ledger: repeats removals that failed, as dockerd asks only once; None: nobody does.
        """
        self._host = host
        self._networks = networks
        self._endpoints = endpoints
        self._links = links
        self._datapath = datapath
        self._finisher = finisher
        self._ports = ports
        self._random_bytes = random_bytes
        self._underlay_mtu = underlay_mtu
        self._has_host_path = has_host_path
        self._locks = KeyedLocks()
        # Requested interface names between CreateEndpoint and DeleteEndpoint.  Not durable:
        # no dockerd up to 29.7 acts on DstName, and Join follows within milliseconds.
        self._ifnames: dict[EndpointId, str] = {}
        # Of joined endpoints that Docker removed after their interface had gone, until they are
        # given to others.  It releases them next.
        self._orphans: set[IPv4Address | IPv6Address] = set()
        # With what must be withdrawn: a removal may fail after the record is gone.
        self._removals = (ledger or Ledger()).page("remove endpoint", self._remove_again)

    def create_endpoint(self, request: EndpointRequest) -> Endpoint:
        """Assign the endpoint's MAC and endpoint port, and publish its record.

        Errors: InvalidArgument, NotFound (network), Conflict (other values under this id, or
        the address is in use), Exhausted, StoreUnavailable; after an error nothing is left.
        """
        check_ifname(request.ifname)
        with self._locks.hold(request.id), Undo() as undo:
            network = self._network(request.network_id)
            known = self._endpoints.get(request.id)
            if known is not None:
                # An earlier call may have written the record and died before it knew.
                self._ports.restore([known])
                self._prepare_link(same(known, request), network)
                return known
            self._removals.drop(request.id)
            self.restore_ports()
            port = 0
            if self._meant_for_host_path(network, request.address, request.address6):
                port = self._ports.request(request.id)
                undo.push("release the endpoint port", lambda: self._ports.release(request.id))
            endpoint = Endpoint(
                id=request.id, network_id=network.id, vni=network.vni, host=self._host.id,
                underlay=self._host.underlay,
                mac=request.mac or choose_mac(request.address, self._random_bytes),
                address=request.address, address6=request.address6, port=port,
                takes_ipv6=port != 0 and request.address6 is not None,
                host_path=request.host_path)
            endpoint = replace(endpoint, offered=choose(endpoint, network) is not HostPath.OFF)
            self._create(endpoint, network)
            self._orphans -= _addresses(endpoint)
            if request.ifname:
                self._ifnames[request.id] = request.ifname
            self._prepare_link(endpoint, network)
            return endpoint

    def join(self, network_id: NetworkId, endpoint_id: EndpointId, sandbox_key: str
             ) -> InterfaceNames:
        """Create the endpoint's interface and everything about it that the host can see.

        The sandbox at `sandbox_key` need not exist yet (Docker <= 27).
        Errors: NotFound, Conflict (joined to another sandbox), LinkError, DatapathError,
        StoreUnavailable; after an error the endpoint is as before.
        """
        with self._locks.hold(endpoint_id), Undo() as undo:
            before = self._endpoints.get(endpoint_id)
            if before is None or before.network_id != network_id:
                raise NotFound(f"network {network_id[:12]} has no endpoint {endpoint_id[:12]} "
                               "on this host")
            network = self._network(network_id)
            if before.sandbox_key not in ("", sandbox_key):
                raise Conflict(f"endpoint {endpoint_id[:12]} is joined to sandbox "
                               f"{before.sandbox_key} already, not {sandbox_key}")
            if before.sandbox_key == sandbox_key:
                veth = self._links.find(endpoint_id)
                if veth is not None:
                    return self._joined(endpoint_id, veth)
            # Make the intent durable first: a driver that dies here finds the endpoint when it
            # comes back, and reconciles.
            # Each inverse is ready before its effect: an effect that fails may have happened.
            endpoint = replace(before, sandbox_key=sandbox_key)
            undo.push("take the sandbox out of the record",
                      lambda: self._endpoints.replace(replace(before, sandbox_key="")))
            self._endpoints.replace(endpoint)
            mtu = self._mtu(network)
            undo.push("delete the link", lambda: self._links.delete(endpoint_id))
            veth = self._links.make(endpoint_id, endpoint.mac, mtu)
            undo.push("withdraw the endpoint", lambda: self._datapath.withdraw_endpoint(
                endpoint, veth.host_ifindex))
            self._datapath.publish_endpoint(endpoint, veth)
            self._finisher.expect(endpoint, veth)
            return self._joined(endpoint_id, veth)

    def leave(self, network_id: NetworkId, endpoint_id: EndpointId) -> None:
        """Undo `join`.  Unknown or not joined: nothing to do.

        Next, dockerd moves the link back to the host if it finds it.  The kernel takes 10 to 20 ms
        for that and holds a lock that everybody needs.  So dockerd must not find it.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None or endpoint.network_id != network_id:
                return
            self._note_orphans(endpoint)
            steps = [*self._withdrawal(endpoint),
                     ("retire the link", lambda: self._links.retire(endpoint))]
            if endpoint.sandbox_key:
                steps.append(("take the sandbox out of the record", lambda: self._endpoints.replace(
                    replace(endpoint, sandbox_key=""))))
            run_all(steps)

    def delete_endpoint(self, network_id: NetworkId, endpoint_id: EndpointId) -> None:
        """Remove all that is left of the endpoint.  Unknown: only tidy up.

        dockerd cannot be refused here and never asks again: every step is tried, including those
        that need no etcd.
        """
        with self._locks.hold(endpoint_id):
            self._delete(network_id, endpoint_id)

    def bury(self, endpoint_id: EndpointId, cookie: Callable[[str], int | None]) -> bool:
        """Remove this host's endpoint if certainly nobody has it; return whether it was removed.

        That is certain when both its interface and its sandbox are gone: dockerd ended without
        notice, or could not reach the driver.  cookie: see ports.Sandboxes.
        Errors: those of delete_endpoint.
        """
        with self._locks.hold(endpoint_id):  # no Join is under way
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None or not endpoint.sandbox_key or (
                    self._links.find(endpoint_id) is not None
                    or cookie(endpoint.sandbox_key) is not None):
                return False
            log.warning("endpoint %.12s (%s): its container is gone, and its address is asked "
                        "for again: it is removed", endpoint_id, endpoint.address)
            self._delete(endpoint.network_id, endpoint_id)
            return True

    def orphaned(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether the endpoint that had the address ended with this host.

        Docker starts its container anew if that has a restart policy.
        """
        return address in self._orphans

    def _note_orphans(self, endpoint: Endpoint) -> None:
        with suppress(LinkError):  # then it is not known to be gone
            if endpoint.sandbox_key and self._links.find(endpoint.id) is None:
                self._orphans |= _addresses(endpoint)

    def _delete(self, network_id: NetworkId, endpoint_id: EndpointId) -> None:
        try:
            endpoint = self._endpoints.get(endpoint_id) or self._removals.get(endpoint_id)
        except StoreUnavailable:
            run_all([self._forgetting(endpoint_id), self._unlinking(endpoint_id)])
            raise
        if endpoint is None:
            self._ports.release(endpoint_id)
            run_all([self._forgetting(endpoint_id), self._unlinking(endpoint_id)])
            return
        if endpoint.network_id != network_id:
            raise Conflict(f"endpoint {endpoint_id[:12]} belongs to network "
                           f"{endpoint.network_id[:12]}, not {network_id[:12]}")
        self._remove(endpoint)

    def _remove(self, endpoint: Endpoint) -> None:
        # Delete the record whatever became of the rest: reconciling finds links and map
        # entries without a record, but not a record without a container.
        self._note_orphans(endpoint)
        with self._removals.attempt(endpoint.id, endpoint):
            run_all([*self._withdrawal(endpoint), self._unlinking(endpoint.id),
                     ("delete the record", lambda: self._delete_record(endpoint.id))])

    def _remove_again(self, endpoint_id: EndpointId, endpoint: Endpoint) -> None:
        with self._locks.hold(endpoint_id):
            if self._removals.get(endpoint_id) is not None:  # else it was created again
                self._delete(endpoint.network_id, endpoint_id)

    def offer_host_path(self, endpoint_id: EndpointId, offered: bool, takes_ipv6: bool) -> None:
        """Publish the endpoint's port, or 0 to send its peers to the overlay path.

        An endpoint keeps a port that is not offered: open connections continue to use it.
        takes_ipv6: peers may call its IPv6 address, if it has one, by that port.

        Errors: Exhausted, StoreUnavailable.  Unknown: nothing to do.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None:
                return
            # The endpoint keeps a port that is not offered, for its open connections.
            port = self._port(endpoint) if offered and not endpoint.port else endpoint.port
            wanted = replace(endpoint, port=port, offered=offered, takes_ipv6=(
                takes_ipv6 and port != 0 and endpoint.address6 is not None))
            if wanted != endpoint:
                self._endpoints.replace(wanted)

    def set_names(self, endpoint_id: EndpointId, names: tuple[str, ...]) -> None:
        """Put on record what the endpoint's container is called.

        Idempotent.  Error: StoreUnavailable.  Unknown: nothing to do.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.names != names:
                self._endpoints.replace(replace(endpoint, names=names))

    def request_port(self, endpoint_id: EndpointId) -> int:
        """Return the endpoint's port, a new one if it has none; 0: it is not meant to have one.

        offer_host_path publishes it.  Errors: Exhausted, StoreUnavailable.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            return self._port(endpoint) if endpoint is not None else 0

    def _port(self, endpoint: Endpoint) -> int:
        network = self._networks.get(endpoint.network_id)
        if network is None or not self._meant_for_host_path(
                network, endpoint.address, endpoint.address6):
            return 0
        self.restore_ports()
        return self._ports.request(endpoint.id)  # a repeated request returns the held port

    def _meant_for_host_path(
            self, network: Network, address: IPv4Interface | None,  # noqa: ARG002
            address6: IPv6Interface | None) -> bool:
        """Return whether an endpoint is to have a host path; every request for a port asks here."""
        # Programs know it by its IPv4 address; over an IPv6 underlay it is for IPv6 sockets only.
        return self._has_host_path and address is not None and (
            self._host.underlay.version == 4 or address6 is not None)

    def restore_ports(self, owned: Iterable[int] = ()) -> None:
        """Learn once which ports this host's endpoints have, before any is handed out.

        owned: ports that have an owner in the kernel, known here or not.
        """
        self._ports.restore_once(self._endpoints.list)
        self._ports.spare(owned)

    def get_endpoint(self, network_id: NetworkId, endpoint_id: EndpointId) -> Endpoint | None:
        """Return the endpoint of this host; None if there is none."""
        endpoint = self._endpoints.get(endpoint_id)
        return endpoint if endpoint and endpoint.network_id == network_id else None

    def adopt(self, endpoint_id: EndpointId, veth: Veth) -> None:
        """Take over a joined endpoint whose link an earlier driver made.  Idempotent.

        Errors: DatapathError, StoreUnavailable; its connections then continue as before.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.sandbox_key:
                self._datapath.publish_endpoint(endpoint, veth)
                self._finisher.expect(endpoint, veth)

    def rehome(self, endpoint_id: EndpointId) -> None:
        """Put this host's underlay address, which may have changed, on record.

        Idempotent.  Error: StoreUnavailable.  Unknown: nothing to do.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.underlay != self._host.underlay:
                self._endpoints.replace(replace(endpoint, underlay=self._host.underlay))

    def enter(self, endpoint_id: EndpointId) -> bool:
        """Put the endpoint back on record if etcd lacks it; return whether anything had to be done.

        Errors: Conflict (etcd has its address for another endpoint), UnsupportedRecord,
        StoreUnavailable.  Unknown: nothing to do.
        """
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            return endpoint is not None and self._endpoints.enter(endpoint)

    def take_or_delete(self, endpoint: Endpoint) -> None:
        """Settle a record of this host that it has no note of.

        If its link exists, the note was lost: the endpoint is noted again.  Otherwise this host
        has deleted it or never created it: old data has come back, or a driver died half-way.
        Errors: LinkError, StoreUnavailable, StateError.
        """
        with self._locks.hold(endpoint.id):
            if self._endpoints.get(endpoint.id) is not None or not any(
                    each.id == endpoint.id for each in self._endpoints.on_record()):
                return
            if self._links.find(endpoint.id) is not None:
                self._endpoints.note(endpoint)
                self._ports.restore([endpoint])
                log.warning("endpoint %.12s is noted again, as etcd has it", endpoint.id)
            else:
                self._endpoints.delete(endpoint.id)
                log.warning("endpoint %.12s was on record in etcd, and this host has none: "
                            "deleted there", endpoint.id)

    def give_up(self, endpoint_id: EndpointId) -> None:
        """Remove an endpoint whose removal a person has requested.  Unknown: nothing to do."""
        with self._locks.hold(endpoint_id):
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None:
                return
            log.error("endpoint %.12s loses its network: `slim forget-host` was told so",
                      endpoint_id)
            self._remove(endpoint)

    def list_endpoints(self, network_id: NetworkId) -> list[EndpointId]:
        """List the ids of the network's endpoints that have anything left on this host."""
        found = [*self._endpoints.list(), *self._removals.values()]
        return list(dict.fromkeys(
            endpoint.id for endpoint in found if endpoint.network_id == network_id))

    def _create(self, endpoint: Endpoint, network: Network) -> None:
        try:
            self._endpoints.create(endpoint)
        except NotFound:  # etcd has lost the network, but this host has it
            self._networks.enter(network)
            self._endpoints.create(endpoint)

    def _delete_record(self, endpoint_id: EndpointId) -> None:
        self._endpoints.delete(endpoint_id)
        self._ports.release(endpoint_id)
        self._ifnames.pop(endpoint_id, None)

    def _withdrawal(self, endpoint: Endpoint) -> list[Step]:
        def withdraw() -> None:
            # The link may be gone with its namespace; 0 stands for no interface.
            veth = self._links.find(endpoint.id)
            self._datapath.withdraw_endpoint(endpoint, veth.host_ifindex if veth else 0)

        return [self._forgetting(endpoint.id), ("withdraw the endpoint", withdraw)]

    def _forgetting(self, endpoint_id: EndpointId) -> Step:
        return "forget the sandbox", lambda: self._finisher.forget(endpoint_id)

    def _prepare_link(self, endpoint: Endpoint, network: Network) -> None:
        if not endpoint.sandbox_key:
            with suppress(LinkError):  # about the underlay; Join reports it
                self._links.prepare(endpoint.id, endpoint.mac, self._mtu(network))

    def _unlinking(self, endpoint_id: EndpointId) -> Step:
        return "delete the link", lambda: self._links.delete_soon(endpoint_id)

    def _network(self, network_id: NetworkId) -> Network:
        network = self._networks.get(network_id)
        if network is None:
            raise NotFound(f"network {network_id[:12]} does not exist on this host; "
                           "remove it from Docker and create it again")
        return network

    def _mtu(self, network: Network) -> int:
        underlay = self._underlay_mtu()
        if underlay <= 0:
            raise LinkError("the underlay's MTU is not known: is its device up?")
        return min(network.mtu or underlay, underlay)

    def _joined(self, endpoint_id: EndpointId, veth: Veth) -> InterfaceNames:
        name = self._ifnames.get(endpoint_id, "")
        # "web0" -> prefix "web": current dockerds ignore DstName and number the prefix.
        return InterfaceNames(veth.container_name, name.rstrip("0123456789") or DST_PREFIX, name)


def _addresses(endpoint: Endpoint) -> set[IPv4Address | IPv6Address]:
    return {each.ip for each in (endpoint.address, endpoint.address6) if each is not None}
