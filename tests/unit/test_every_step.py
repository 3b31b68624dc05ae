"""Every call of dockerd's, and all that follows from it, is spoilt at step k for every k.

A step is a call on a port: etcd, links, namespaces, maps, Docker's API.  It fails before or
after its effect, or the driver is killed there and a new one recovers.  Then either the same call
is made again, and all is as if nothing had happened; or Docker gives up and undoes the
rest, and nothing is left.  Steps are counted while they are made: a new one cannot be missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_network
from types import FrameType

import pytest

from driver.errors import SlimError
from driver.model import Endpoint, EndpointId, HostId, NetworkId
from driver.services.addresses import AddressService
from driver.services.collect import Collector
from driver.services.endpoint_requests import EndpointRequest
from driver.services.endpoints import EndpointService
from driver.services.networks import NetworkService, Pool
from driver.services.publisher import Publisher
from driver.services.reconcile import Reconciler
from driver.services.sandboxes import Finisher
from tests.support.steps import How, Killed, Spoil
from tests.support.whole import GATEWAY, SPACE, Whole

NOWHERE = Spoil(0, How.FAILS)
KILLS = (How.KILLED, How.DONE_KILLED)
STEPS_MAX = 400
Act = Callable[[Whole], object]


def nothing(whole: Whole) -> None:
    pass


@dataclass(frozen=True)
class Call:
    """One call of dockerd's, or another thing that happens to a host."""

    name: str
    act: Act
    believes: Act = nothing  # what Docker takes for true if the call succeeds (removal: anyway)
    follows: Act = nothing  # what dockerd then does by itself, under the same condition
    undoes: str = ""  # it is a removal: of what this call made


@dataclass(frozen=True)
class Net:
    """A network with one container on it, and all the calls about them."""

    number: int = 1
    space: str = SPACE  # of its pools: ours, or that of Docker's own IPAM
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
            self.id, [Pool(self.space, ip_network(pool)) for pool in (self.pool, self.pool6)
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
        made = whole.networks._networks.get(self.id)  # type: ignore[attr-defined]
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
    """Another host's container comes, moves to another endpoint port, and goes."""
    vnis: list[Endpoint] = []

    def come(whole: Whole) -> None:
        vnis[:] = [net.neighbour(whole)]
        whole.neighbour(vnis[0])

    return [Call("neighbour comes", come),
            Call("neighbour changes", lambda w: w.neighbour(replace(vnis[0], port=61001))),
            Call("neighbour goes", lambda w: w.neighbour_gone(vnis[0]), undoes="neighbour comes")]


def offer(offered: bool) -> Call:
    """The finisher gives a sandbox up, or it came to be after all."""
    return Call(f"host path is offered: {offered}",
                lambda w: w.endpoints.offer_host_path(ONE.endpoint, offered))


def collect(forgets: Act, name: str) -> Call:
    """Docker does not know of something any more, and says so."""
    def act(whole: Whole) -> None:
        forgets(whole)
        whole.collect()

    return Call(f"what is forgotten is collected: {name}", act)


ONE, TWO = Net(1), Net(2)
DOCKERS = Net(4, space="LocalDefault", pool6="fd00:34::/64")
COME, CHANGE, GO = neighbours(ONE)
RESTART = restart().name
# What happens, and whether a call of it is to be spoilt (it may have been in another life).
LIVES: dict[str, tuple[list[Call], Callable[[int, Call], bool]]] = {
    "one network": (
        [*ONE.makes(), offer(False), offer(True), *ONE.removes(), end_of_namespace(ONE)],
        lambda index, call: True),
    "two networks in one sandbox": (
        [*ONE.makes(), *TWO.makes(), *ONE.removes(), *TWO.removes(), end_of_namespace(ONE)],
        lambda index, call: index > 10),
    "driver starts again at every point": (
        [each for call in [*ONE.makes(), *ONE.removes()] for each in (call, restart())]
        + [end_of_namespace(ONE)],
        lambda index, call: call.name == RESTART),
    "container dies with its host's dockerd": (
        [*ONE.makes(), end_of_namespace(ONE), restart(), *ONE.removes()],
        lambda index, call: index > 6),
    "network is deleted with a container on it": (
        [*ONE.makes(), end_of_namespace(ONE), ONE.release_address(), *ONE.removes_network()],
        lambda index, call: index > 7),
    "neighbours": (
        [*ONE.makes()[:3], COME, CHANGE, restart(), GO, *ONE.removes_network()],
        lambda index, call: index > 2),
    "Docker's own IPAM, two families": (
        [DOCKERS.create_network(), *DOCKERS.makes()[4:], *DOCKERS.removes()[:2],
         end_of_namespace(DOCKERS), DOCKERS.delete_network()],
        lambda index, call: True),
    "Docker forgets everything": (
        [*ONE.makes(), *TWO.makes()[:5], end_of_namespace(ONE),
         collect(lambda w: w.docker.forget_all(), "all")],
        lambda index, call: index == 13),
    "Docker forgets an address": (
        [*ONE.makes()[:4], collect(lambda w: w.docker.addresses.clear(), "address"),
         *ONE.removes_network()],
        lambda index, call: index == 4),
}


@dataclass
class Outcome:
    succeeded: bool
    reached: bool
    step: str  # the spoilt one's name


def perform(whole: Whole, call: Call, spoil: Spoil = NOWHERE) -> Outcome:
    """Make one call, and let the driver's threads do what follows from it."""
    whole.steps.begin(spoil)
    succeeded = False
    with suppress(Killed):
        with suppress(SlimError):
            call.act(whole)
            succeeded = True
        whole.settle()
    reached = whole.steps.reached
    step = whole.steps.names[spoil.at - 1] if reached else ""
    whole.steps.begin(NOWHERE)
    if whole.steps.dead:
        whole.reboot()
        whole.recover()
    whole.settle()
    if succeeded or call.undoes:
        call.believes(whole)
        call.follows(whole)
    return Outcome(succeeded, reached, step)


def until(calls: Sequence[Call]) -> Whole:
    whole = Whole()
    whole.recover()
    for call in calls:
        assert perform(whole, call).succeeded, call.name
    return whole


def spoilt(calls: Sequence[Call], index: int, how: How) -> Iterator[tuple[int, Whole, Outcome]]:
    """For each step of a call: a world in which the call was spoilt there."""
    for at in range(1, STEPS_MAX):
        whole = until(calls[:index])
        outcome = perform(whole, calls[index], Spoil(at, how))
        if not outcome.reached:
            assert outcome.succeeded, "unspoilt"
            return
        yield at, whole, outcome
    raise AssertionError("the call never ends")


def same(whole: Whole, wanted: dict[str, object], where: str) -> None:
    left = whole.difference(wanted)
    assert not left, f"{where}\n{left}"


POINTS = [pytest.param(calls, index, id=f"{life}: {index} {call.name}")
          for life, (calls, chosen) in LIVES.items() for index, call in enumerate(calls)
          if chosen(index, call)]


def test_every_use_case_is_spoilt_somewhere() -> None:
    """A new public method of a service is a call here, or is named here with the reason."""
    spoilt_names = {name for calls, _ in LIVES.values() for name in called(calls)}
    services = (EndpointService, NetworkService, AddressService, Finisher, Publisher, Collector,
                Reconciler)
    for service in services:
        public = {name for name, member in vars(service).items()
                  if callable(member) and not name.startswith("_")}
        missing = {f"{service.__name__}.{name}" for name in public} - spoilt_names - READS
        assert not missing


def called(calls: Sequence[Call]) -> set[str]:
    """Names of all methods that run while the calls are made: ``Class.method``."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "/driver/services/" in frame.f_code.co_filename:
            seen.add(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        until(calls)
    finally:
        sys.setprofile(None)
    return seen


# They change nothing, or belong to a process and not to what is kept.
READS = {
    "EndpointService.get_endpoint", "NetworkService.check", "AddressService.default_spaces",
    "Finisher.start", "Finisher.stop", "Finisher.counts", "Publisher.directory_size",
    # The feed's single changes; a snapshot, which is tried, does the same with each.
    "Publisher.put", "Publisher.removed",
    # Others have removed its record: tests/unit/test_returning.py.
    "EndpointService.restore_or_give_up",
    # A swarm manager's calls, each step spoilt: tests/unit/test_swarm_pools.py.
    "AddressService.hold_pools", "AddressService.let_pools_go",
    # What was spoilt before: every call begins with it.
    "AddressService.settle",
    # As a first attempt: tests/netns/test_underlay_events.py.
    "Finisher.refresh",
}


# A host path that is not offered is not set up by a new driver: it is not the same afterwards.
AGAIN = [pytest.param(*point.values, how, id=f"{point.id}: {how.value}")
         for point in POINTS for how in How
         if not (how in KILLS and "host path is offered" in str(point.id))]


@pytest.mark.parametrize(("calls", "index", "how"), AGAIN)
def test_the_same_call_then_succeeds(calls: list[Call], index: int, how: How) -> None:
    empty, wanted = until([]).view(), until(calls[:index + 1]).view()
    if how in KILLS:
        # A new driver finds and removes more than its undisturbed predecessor knew of.
        undisturbed = until([*calls[:index + 1], restart()])
        undisturbed.collect()
        wanted = undisturbed.view()
    for at, whole, outcome in spoilt(calls, index, how):
        where = f"{how.value}: step {at}, {outcome.step}"
        if not outcome.succeeded:
            assert perform(whole, calls[index]).succeeded, where
        if how in KILLS:
            whole.collect()  # a request that nobody lived to answer counts twice until then
        same(whole, wanted, where)
        for call in calls[index + 1:]:
            assert perform(whole, call).succeeded, f"{where}, then {call.name}"
        same(whole, empty, f"{where}, at the end")


@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize(("calls", "index"), POINTS)
def test_docker_gives_up_and_nothing_is_left(calls: list[Call], index: int, how: How) -> None:
    empty = until([]).view()
    for at, whole, outcome in spoilt(calls, index, how):
        where = f"{how.value}: step {at}, {outcome.step}"
        made = {call.name for call in calls[:index]}
        if outcome.succeeded:
            made.add(calls[index].name)
        for call in calls[index + 1:]:
            if call.undoes in made or call.name == "namespace ends":
                assert perform(whole, call).succeeded, f"{where}, then {call.name}"
        whole.collect()
        same(whole, empty, where)
