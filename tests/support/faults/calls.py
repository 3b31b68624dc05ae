"""Lists what can happen to a host, one thing at a time: dockerd's calls, restarts, others' news.

Each happens to a Whole (whole.py): a driver with everything around it replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_network

from driver.model import Endpoint, EndpointId, HostId, NetworkId
from driver.services.endpoints.requests import EndpointRequest
from driver.services.networks.lifecycle import NetworkPool
from tests.support.world.whole import GATEWAY, SPACE, Whole

Act = Callable[[Whole], object]


def nothing(whole: Whole) -> None:
    pass


@dataclass(frozen=True)
class Call:
    """One call of dockerd's, or another thing that happens to a host."""

    name: str
    act: Act
    believes: Act = nothing  # what Docker then takes for true if it succeeds (a removal: always)
    follows: Act = nothing  # what dockerd then does itself, under the same condition
    undoes: str = ""  # for a removal: the call that made what it removes


@dataclass(frozen=True)
class Net:
    """A network with one container, and all calls about them."""

    number: int = 1
    space: str = SPACE  # the pools' address space: ours, or that of Docker's own IPAM
    pool6: str = ""  # CIDR
    key: str = "/var/run/docker/netns/4f0a1b2c3d4e"

    @property
    def id(self) -> NetworkId:
        return NetworkId(f"{self.number}" * 64)

    @property
    def endpoint(self) -> EndpointId:
        return EndpointId(f"{self.number}e" * 32)

    @property
    def pool(self) -> str:
        return f"10.3{self.number}.0.0/24"

    @property
    def address(self) -> IPv4Address:
        return ip_network(self.pool)[9]  # type: ignore[return-value]

    @property
    def address6(self) -> IPv6Interface | None:
        return IPv6Interface((ip_network(self.pool6)[9], 64)) if self.pool6 else None

    @property
    def link(self) -> str:
        return "sl" + self.endpoint[:11]

    # ------------------------------------------------------------------ making
    def request_pool(self) -> Call:
        return Call(f"RequestPool {self.number}", lambda w: w.addresses.request_pool(
            SPACE, self.pool, "", v6=False, options={}),
            lambda w: w.docker.pools.append((self.pool, "")))

    def request_gateway(self) -> Call:
        return Call(f"RequestAddress gateway {self.number}", lambda w: w.addresses.request_address(
            f"{SPACE}/{self.pool}", "", options=GATEWAY))

    def create_network(self) -> Call:
        return Call(f"CreateNetwork {self.number}", lambda w: w.networks.create_network(
            self.id, [NetworkPool(self.space, ip_network(pool)) for pool in (self.pool, self.pool6)
                      if pool], {}, internal=False),
            lambda w: w.docker.networks.add(self.id))

    def request_address(self) -> Call:
        return Call(f"RequestAddress {self.number}", lambda w: w.addresses.request_address(
            f"{SPACE}/{self.pool}", str(self.address), options={}),
            lambda w: w.docker.addresses.add(self.address))

    def create_endpoint(self) -> Call:
        return Call(f"CreateEndpoint {self.number}", lambda w: w.endpoints.create_endpoint(
            EndpointRequest(self.endpoint, self.id, IPv4Interface((self.address, 24)),
                            self.address6, None)),
            lambda w: w.docker.endpoints.add(self.endpoint))

    def join(self) -> Call:
        return Call(f"Join {self.number}",
                    lambda w: w.endpoints.join(self.id, self.endpoint, self.key))

    def come_up(self) -> Call:
        def act(whole: Whole) -> None:
            whole.kernel.cookies.setdefault(self.key, 77)
            whole.kernel.move_in(self.link, self.key)
            whole.finisher.carrier_up(self.link, 0)

        return Call(f"interface {self.number} comes up", act)

    # ---------------------------------------------------------------- removing
    def leave(self) -> Call:
        def follows(whole: Whole) -> None:
            whole.kernel.move_out(self.link)
            whole.finisher.carrier_down(self.link, 0)

        return Call(f"Leave {self.number}", lambda w: w.endpoints.leave(self.id, self.endpoint),
                    follows=follows, undoes=self.join().name)

    def delete_endpoint(self) -> Call:
        return Call(f"DeleteEndpoint {self.number}",
                    lambda w: w.endpoints.delete_endpoint(self.id, self.endpoint),
                    lambda w: w.docker.endpoints.discard(self.endpoint),
                    undoes=self.create_endpoint().name)

    def release_address(self) -> Call:
        return Call(f"ReleaseAddress {self.number}", lambda w: w.addresses.release_address(
            f"{SPACE}/{self.pool}", str(self.address)),
            lambda w: w.docker.addresses.discard(self.address),
            undoes=self.request_address().name)

    def release_gateway(self) -> Call:
        return Call(f"ReleaseAddress gateway {self.number}",
                    lambda w: w.addresses.release_address(
                        f"{SPACE}/{self.pool}", str(ip_network(self.pool)[1])),
                    undoes=self.request_gateway().name)

    def release_pool(self) -> Call:
        return Call(f"ReleasePool {self.number}",
                    lambda w: w.addresses.release_pool(f"{SPACE}/{self.pool}"),
                            lambda w: w.docker.forget_pool((self.pool, "")),
                    undoes=self.request_pool().name)

    def delete_network(self) -> Call:
        return Call(f"DeleteNetwork {self.number}",
                    lambda w: w.networks.delete_network(self.id),
                    lambda w: (w.docker.networks.discard(self.id),
                               w.docker.endpoints.discard(self.endpoint)),
                    undoes=self.create_network().name)

    # -------------------------------------------------------------- other hosts
    def neighbour(self, whole: Whole) -> Endpoint:
        made = whole.own_networks.get(self.id)
        assert made is not None
        return Endpoint(
            id=EndpointId("f" * 64), network_id=NetworkId("x"), vni=made.vni, host=HostId("b" * 32),
            underlay=IPv4Address("198.18.0.2"), mac=b"\2\0\0\0\0\1",
            address=IPv4Interface((ip_network(self.pool)[77], 24)),  # type: ignore[arg-type]
            address6=None, port=61000)

    # --------------------------------------------------------------- all of it
    def makes(self) -> list[Call]:
        return [self.request_pool(), self.request_gateway(), self.create_network(),
                self.request_address(), self.create_endpoint(), self.join(), self.come_up()]

    def removes(self) -> list[Call]:
        return [self.leave(), self.delete_endpoint(), self.release_address(),
                *self.removes_network()]

    def removes_network(self) -> list[Call]:
        return [self.release_gateway(), self.release_pool(), self.delete_network()]


def restart() -> Call:
    def act(whole: Whole) -> None:
        whole.reboot()
        whole.recover()

    return Call("driver starts again", act)


def end_of_namespace(net: Net) -> Call:
    return Call("namespace ends", lambda w: w.kernel.end_namespace(net.key))


def neighbours(net: Net) -> list[Call]:
    """Another host's container appears, moves to another endpoint port, and goes."""
    vnis: list[Endpoint] = []

    def come(whole: Whole) -> None:
        vnis[:] = [net.neighbour(whole)]
        whole.neighbour(vnis[0])

    return [Call("neighbour comes", come),
            Call("neighbour changes", lambda w: w.neighbour(replace(vnis[0], port=61001))),
            Call("neighbour goes", lambda w: w.neighbour_gone(vnis[0]), undoes="neighbour comes")]


def offer(net: Net, offered: bool) -> Call:
    """The finisher gives up a sandbox, or the sandbox appears after all."""
    return Call(f"host path is offered: {offered}",
                lambda w: w.endpoints.offer_host_path(net.endpoint, offered, offered))


def call_names(net: Net, *names: str) -> Call:
    """Docker calls the container so, or not any more."""
    return Call(f"names: {' '.join(names)}",
                lambda w: w.endpoints.set_names(net.endpoint, names))


def ask(net: Net) -> Call:
    """The finisher finds an endpoint whose record names no port."""
    return Call("a port is asked for", lambda w: w.endpoints.request_port(net.endpoint))


def rules(net: Net, *, there: bool) -> Call:
    """Programs of the container make packet filter rules, or remove them."""
    def act(whole: Whole) -> None:
        (whole.kernel.filtered.add if there else whole.kernel.filtered.discard)(net.key)
        whole.withholding.changed(net.key)

    return Call(f"own rules: {there}", act)


def collect(forgets: Act, name: str) -> Call:
    """Docker forgets something, and says so when it is asked."""
    def act(whole: Whole) -> None:
        forgets(whole)
        whole.collect()

    return Call(f"what is forgotten is collected: {name}", act)
