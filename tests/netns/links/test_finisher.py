"""Tests carrier monitor and finisher with real namespaces, from dockerd's moves to publishing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from driver.link.pairs.carrier import CarrierMonitor
from driver.link.sandbox.sandbox import KernelSandboxes
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.ports import SandboxEntry
from driver.services.sandboxes.finisher import Finisher
from driver.state.teardowns import FiledTeardowns
from driver.work.ledger import Ledger
from tests.support.fakes import dockerd
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns

UNDERLAY = IPv4Address("192.0.2.1")
WAIT_S = 10.0
MakeNetns = Callable[[str], Netns]


def endpoint(number: int, sandbox: Netns) -> Endpoint:
    return Endpoint(
        id=EndpointId(f"{number:064x}"[::-1]), network_id=NetworkId("n"), vni=Vni(number),
        host=HostId("h"), underlay=UNDERLAY, mac=bytes((2, 0, 0, 0, 0, number)),
        address=IPv4Interface(f"10.{number}.0.2/16"), address6=None, port=61000 + number,
        sandbox_key=sandbox.path)


class Published:
    """The part of Datapath that the finisher uses."""

    def __init__(self) -> None:
        self.entries: dict[int, SandboxEntry] = {}
        self.noted: list[tuple[int, bool, bool]] = []
        self.rules: dict[int, str] = {}  # the sandbox's rules at the moment of publishing

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        inside = Netns(sandbox_key.rsplit("/", 1)[1])
        self.rules[sandbox.cookie] = inside.ip("rule")
        self.entries[sandbox.cookie] = sandbox

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None:
        self.noted.append((cookie, bound, keyed))

    def withdraw_sandbox(self, cookie: int) -> None:
        self.entries.pop(cookie, None)


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def host(make_netns: MakeNetns) -> Netns:
    return make_netns("host")


@pytest.fixture
def finisher(host: Netns, published: Published, tmp_path: Path) -> Iterator[Finisher]:
    threads = threading.active_count()
    ledger = Ledger()
    made = Finisher(sandboxes=KernelSandboxes(), datapath=published,  # type: ignore[arg-type]
                    teardowns=FiledTeardowns(tmp_path), underlay=UNDERLAY,
                    overlay_mtu=lambda: 1450, ledger=ledger)
    carrier = CarrierMonitor(made.carrier_up, made.carrier_down)
    ledger.start()
    host.call(carrier.start)
    yield made
    carrier.stop()
    ledger.stop()
    assert threading.active_count() == threads


def test_a_container_starts_and_stops(make_sandbox: MakeNetns, host: Netns, finisher: Finisher,
                                      published: Published) -> None:
    inside = make_sandbox("c")
    before = inside.ip("rule")
    first = endpoint(1, inside)
    veth = dockerd.make_veth(host, first)
    finisher.expect(first, veth)
    dockerd.move_in(host, inside, first, veth)
    entry = wait_until(lambda: published.entries.get(inside.cookie), WAIT_S, "the sandbox")
    assert entry.primary_ifindex == veth.host_ifindex
    assert [each.address for each in entry.attachments] == [first.address]
    assert f"from {UNDERLAY} iif lo lookup" in published.rules[inside.cookie]
    assert "mtu 1450" in inside.ip("route show dev eth0")
    finisher.forget(first.id)
    assert published.entries == {}
    wait_until(lambda: inside.ip("rule") == before, WAIT_S, "the rules to be as before")
    dockerd.move_out(host, inside, veth)


def test_connect_and_disconnect_while_it_runs(make_sandbox: MakeNetns, host: Netns,
                                              finisher: Finisher, published: Published) -> None:
    inside = make_sandbox("c")
    first, second = endpoint(1, inside), endpoint(2, inside)
    veths = [dockerd.make_veth(host, each) for each in (first, second)]
    for each, veth, name in zip((first, second), veths, ("eth0", "eth1"), strict=True):
        finisher.expect(each, veth)
        dockerd.move_in(host, inside, each, veth, name)
        wait_until(lambda each=each: any(
            each.vni in [one.vni for one in entry.attachments]
            for entry in published.entries.values()), WAIT_S, f"network {each.vni}")
    entry = published.entries[inside.cookie]
    assert entry.primary_ifindex == veths[0].host_ifindex
    assert "dev eth0" in inside.ip("route show table 20765")
    finisher.forget(first.id)
    dockerd.move_out(host, inside, veths[0], "eth0")
    entry = published.entries[inside.cookie]
    assert entry.primary_ifindex == veths[1].host_ifindex
    assert [one.vni for one in entry.attachments] == [2]
    assert "dev eth1" in inside.ip("route show table 20765")


def test_a_driver_that_starts_again_takes_running_containers_over(
        make_sandbox: MakeNetns, host: Netns, published: Published, tmp_path: Path) -> None:
    inside = make_sandbox("c")
    first = endpoint(1, inside)
    veth = dockerd.make_veth(host, first)
    dockerd.move_in(host, inside, first, veth)
    for _ in range(2):
        published.entries.clear()
        ledger = Ledger()
        made = Finisher(sandboxes=KernelSandboxes(), datapath=published,  # type: ignore[arg-type]
                        teardowns=FiledTeardowns(tmp_path), underlay=UNDERLAY,
                        overlay_mtu=lambda: 1450, ledger=ledger)
        carrier = CarrierMonitor(made.carrier_up, made.carrier_down)
        ledger.start()
        host.call(carrier.start)
        try:
            made.expect(first, veth)
            wait_until(lambda: inside.cookie in published.entries, WAIT_S, "the sandbox")
        finally:
            carrier.stop()
            ledger.stop()
        assert inside.ip("rule").count("lookup 20765") == 2


def test_a_namespace_that_went_away_is_no_trouble(make_sandbox: MakeNetns, host: Netns,
                                                  finisher: Finisher,
                                                  published: Published) -> None:
    inside = make_sandbox("c")
    first = replace(endpoint(1, inside), sandbox_key="/run/netns/slimtest-absent")
    veth = dockerd.make_veth(host, first)
    finisher.expect(first, veth)
    dockerd.move_in(host, inside, first, veth)
    wait_until(lambda: finisher.counts().failed_attempts > 0, WAIT_S, "a failed attempt")
    finisher.forget(first.id)
    assert published.entries == {}
