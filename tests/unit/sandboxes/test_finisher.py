"""When a sandbox is set up, published, handed on and taken down; with no kernel at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from driver.errors import Exhausted, LinkError, StoreUnavailable
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.ports import Listeners, SandboxEntry, Veth
from driver.services.sandboxes.finisher import Finisher
from driver.work.ledger import Ledger
from tests.support.run.wait import wait_until

UNDERLAY = IPv4Address("192.0.2.1")
KEY = "/var/run/docker/netns/0123456789ab"
WAIT_S = 10.0


def endpoint(number: int, *, port: int | None = None, key: str = KEY) -> Endpoint:
    return Endpoint(
        id=EndpointId(f"{number:x}" * 64), network_id=NetworkId(f"n{number}"), vni=Vni(number),
        host=HostId("h"), underlay=UNDERLAY, mac=bytes((2, 0, 0, 0, 0, number)),
        address=IPv4Interface(f"10.{number}.0.2/16"), address6=None,
        port=61000 + number if port is None else port, sandbox_key=key)


def veth(number: int) -> Veth:
    return Veth(f"sl{number:011x}", 100 + number, f"sc{number:011x}")


class World:
    """Sandboxes and datapath in one.

    It refuses to publish what is not set up, and to tear down what is still published.  `effects`
    has all calls, for tests of their order.
    """

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.entries: dict[int, SandboxEntry] = {}
        self.inside: dict[tuple[str, Vni], bool] = {}  # networks set up; whether as the primary
        self.torn_down: list[str] = []
        self.noted: dict[int, str] = {}
        self.cookies: dict[str, int] = {KEY: 7}
        self.offered: list[tuple[object, ...]] = []
        self.free_port = 0  # for who has none; 0: it is not meant to have one
        self.left: set[str] = set()  # noted to be torn down
        self.failures: list[str] = []  # names of the next effects that fail
        self.lock = threading.Lock()
        self.listening = Listeners(bound=False, keyed=False)

    def listeners(self, sandbox_key: str) -> Listeners:
        if "listeners" in self.failures:
            self.failures.remove("listeners")
            raise LinkError("this kernel has no sock_diag")
        return self.listening

    def note_listeners(self, cookie: int, *, bound: bool, keyed: bool) -> None:
        self._note("note", f"note {cookie}:{' bound' * bound}{' keyed' * keyed}")
        self.noted[cookie] = f"{' bound' * bound}{' keyed' * keyed}".strip()

    def _note(self, name: str, text: str) -> None:
        with self.lock:
            if name in self.failures:
                self.failures.remove(name)
                self.effects.append(f"{text} FAILS")
                raise LinkError(f"{name}: refused")
            self.effects.append(text)

    def cookie(self, sandbox_key: str) -> int | None:
        return self.cookies.get(sandbox_key)

    def set_up(self, sandbox_key: str, endpoint: Endpoint, veth: Veth, *, underlay: IPv4Address,
               overlay_mtu: int, primary: bool) -> None:
        assert (underlay, overlay_mtu) == (UNDERLAY, 1450)
        self._note("set_up", f"set up {endpoint.vni}{' primary' if primary else ''}")
        self.inside[sandbox_key, endpoint.vni] = primary

    def tear_down(self, sandbox_key: str, underlay: IPv4Address) -> None:
        assert self.cookies.get(sandbox_key) not in self.entries
        self._note("tear_down", "tear down")
        self.torn_down.append(sandbox_key)

    def begin(self, sandbox_key: str) -> None:
        if "begin" in self.failures:
            self.failures.remove("begin")
            raise LinkError("the disk is full")
        self.left.add(sandbox_key)

    def end(self, sandbox_key: str) -> None:
        if "end" in self.failures:
            self.failures.remove("end")
            raise LinkError("the disk is read-only")
        self.left.discard(sandbox_key)

    def outstanding(self) -> list[str]:
        return sorted(self.left)

    def publish_sandbox(self, sandbox: SandboxEntry, sandbox_key: str) -> None:
        for each in sandbox.attachments:
            carries = each.host_ifindex == sandbox.primary_ifindex and each.port != 0
            assert self.inside[sandbox_key, each.vni] or not carries
        vnis = ",".join(str(each.vni) for each in sandbox.attachments)
        self._note("publish", f"publish {sandbox.cookie}: {vnis} over {sandbox.primary_ifindex}")
        self.entries[sandbox.cookie] = sandbox

    def request_port(self, _endpoint_id: EndpointId) -> int:
        if "request_port" in self.failures:
            raise Exhausted("no endpoint port is free")
        return self.free_port

    def offer(self, endpoint_id: EndpointId, offered: bool, takes_ipv6: bool) -> None:
        if "offer" in self.failures:
            self.failures.remove("offer")
            raise StoreUnavailable("etcd is away")
        self.offered.append((endpoint_id, offered, *(["IPv6"] if takes_ipv6 else [])))

    def withdraw_sandbox(self, cookie: int) -> None:
        self._note("withdraw", f"withdraw {cookie}")
        self.entries.pop(cookie, None)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(pause_s=lambda _failed, _error: 0.0)


@pytest.fixture
def finisher(world: World, ledger: Ledger) -> Iterator[Finisher]:
    made = Finisher(sandboxes=world, datapath=world, teardowns=world,  # type: ignore[arg-type]
                    underlay=UNDERLAY, overlay_mtu=lambda: 1450,
                    offer_host_path=world.offer, request_port=world.request_port, ledger=ledger)
    ledger.start()
    yield made
    ledger.stop()


def outstanding(ledger: Ledger) -> list[str]:
    return [f"{step.what}: {step.error}" for step in ledger.outstanding()]


def up(finisher: Finisher, number: int) -> None:
    finisher.carrier_up(veth(number).host_name, veth(number).host_ifindex)


def effects(world: World, *wanted: str) -> None:
    wait_until(lambda: world.effects == list(wanted), WAIT_S, f"{wanted}, have {world.effects}")


def published(world: World, *vnis: int, over: int, cookie: int = 7) -> None:
    """Wait until these networks are published, the host path over the one of `over`."""
    def is_so() -> bool:
        entry = world.entries.get(cookie)
        return entry is not None and (
            [each.vni for each in entry.attachments], entry.primary_ifindex) == (
            list(vnis), veth(over).host_ifindex)

    wait_until(is_so, WAIT_S, f"{vnis} over {over}, have {world.entries}")


def test_published_last_and_only_after_carrier(finisher: Finisher, world: World) -> None:
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 2)  # somebody else's
    assert world.effects == []
    up(finisher, 1)
    effects(world, "set up 1 primary", "publish 7: 1 over 101")
    entry = world.entries[7]
    assert entry.attachments[0].port == 61001
    assert entry.attachments[0].address == IPv4Interface("10.1.0.2/16")
    wait_until(lambda: finisher.counts().finished == 1, WAIT_S, "the count")


def test_how_long_it_took_from_carrier(world: World, ledger: Ledger) -> None:
    """Once per endpoint, and not for those of a driver before, whose carrier was there already."""
    now_s, took = [100.0], list[float]()
    finisher = Finisher(sandboxes=world, datapath=world, teardowns=world,  # type: ignore[arg-type]
                        underlay=UNDERLAY, overlay_mtu=lambda: 1450, ledger=ledger,
                        took=took.append, clock=lambda: now_s[0])
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    up(finisher, 2)
    finisher.expect(endpoint(2), veth(2))
    assert finisher.waiting() == 2
    world.failures.append("set_up")
    now_s[0] += 0.25
    ledger.run()
    now_s[0] += 0.25
    ledger.run()
    assert (took, finisher.waiting()) == ([0.5], 0)
    finisher.repair(KEY)
    ledger.run()
    assert took == [0.5]


def test_carrier_may_come_before_it_is_expected(finisher: Finisher, world: World) -> None:
    up(finisher, 1)
    finisher.expect(endpoint(1), veth(1))
    published(world, 1, over=1)


def test_carrier_of_yesterday_does_not_count(finisher: Finisher, world: World) -> None:
    up(finisher, 1)
    finisher.carrier_down(veth(1).host_name, 101)
    finisher.expect(endpoint(1), veth(1))
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    published(world, 2, over=2)
    wait_until(lambda: finisher.counts().finished == 1, WAIT_S, "it to be finished")
    assert list(world.inside) == [(KEY, 2)]


def test_listeners_of_one_network_may_be_bound_to_its_device(
        finisher: Finisher, world: World) -> None:
    world.listening = Listeners(bound=True, keyed=False)
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    wait_until(lambda: finisher.counts().finished == 1, WAIT_S, "it to be finished")
    assert world.noted == {}
    world.effects.clear()
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    effects(world, "set up 2", "note 7: bound", "publish 7: 1,2 over 101", "note 7: bound")


def test_a_listener_that_has_keys_is_noted(finisher: Finisher, world: World) -> None:
    world.listening = Listeners(bound=True, keyed=True)
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    wait_until(lambda: world.noted == {7: "keyed"}, WAIT_S, "the note")


def test_listeners_that_cannot_be_looked_at(finisher: Finisher, world: World) -> None:
    """What is in doubt takes the overlay; one network is in no doubt."""
    world.failures = ["listeners"]
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    wait_until(lambda: finisher.counts().finished == 1, WAIT_S, "it to be finished")
    assert world.noted == {}
    world.effects.clear()
    world.failures = ["listeners"]
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    effects(world, "set up 2", "note 7: bound", "publish 7: 1,2 over 101")


def test_leaving_withdraws_first(finisher: Finisher, world: World) -> None:
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    world.effects.clear()
    finisher.forget(endpoint(1).id)
    finisher.forget(endpoint(1).id)
    effects(world, "withdraw 7", "tear down")
    up(finisher, 1)
    assert world.entries == {}


def test_a_driver_of_before_was_killed_at_it(finisher: Finisher, world: World) -> None:
    world.left = {KEY}
    finisher.resume_teardowns()
    wait_until(lambda: world.left == set(), WAIT_S, "the note to go")
    assert world.torn_down == [KEY]


def test_what_was_joined_again_is_not_torn_down(finisher: Finisher, world: World) -> None:
    world.left = {KEY}
    finisher.expect(endpoint(1), veth(1))
    finisher.resume_teardowns()
    wait_until(lambda: world.left == set(), WAIT_S, "the note to go")
    assert world.torn_down == []


@pytest.mark.parametrize("fails", ["begin", "tear_down", "end"])
def test_leaving_goes_on_whatever_fails_of_tearing_down(
        finisher: Finisher, world: World, fails: str) -> None:
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    world.failures = [fails]
    finisher.forget(endpoint(1).id)
    assert world.entries == {}
    wait_until(lambda: KEY in world.torn_down and not world.failures, WAIT_S, "the tearing down")
    wait_until(lambda: world.left == set(), WAIT_S, "the note to go")


def both(finisher: Finisher, world: World) -> None:
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    published(world, 1, 2, over=1)
    world.effects.clear()


def test_a_second_network_leaves(finisher: Finisher, world: World) -> None:
    both(finisher, world)
    finisher.forget(endpoint(2).id)
    published(world, 1, over=1)


def test_another_interface_takes_over_when_the_primary_leaves(
        finisher: Finisher, world: World) -> None:
    both(finisher, world)
    finisher.forget(endpoint(1).id)
    published(world, 2, over=2)
    finisher.forget(endpoint(2).id)
    assert world.entries == {}
    wait_until(lambda: world.torn_down == [KEY], WAIT_S, "the tearing down")


def test_a_failed_takeover_withdraws_and_tries_again(finisher: Finisher, world: World) -> None:
    both(finisher, world)
    world.failures = ["set_up"]
    with pytest.raises(LinkError):
        finisher.forget(endpoint(1).id)
    effects(world, "set up 2 primary FAILS", "withdraw 7",
            "set up 2 primary", "publish 7: 2 over 102")


def test_a_failure_is_tried_again(finisher: Finisher, world: World,
                                  caplog: pytest.LogCaptureFixture) -> None:
    world.failures = ["set_up", "publish"]
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    wait_until(lambda: finisher.counts().finished == 1, WAIT_S, "the count")
    assert finisher.counts().failed_attempts == 2
    assert "attempt 1 failed: set_up: refused" in caplog.text


def test_it_gives_up_and_goes_on(finisher: Finisher, world: World, ledger: Ledger) -> None:
    del world.cookies[KEY]  # the namespace is not visible
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    wait_until(lambda: world.offered == [(endpoint(1).id, False)], WAIT_S, "peers to learn of it")
    wait_until(lambda: finisher.counts().failed_attempts > 5, WAIT_S, "it to be tried on")
    assert finisher.counts().given_up == 1
    assert outstanding(ledger) == [
        f"host path of endpoint {'1' * 12}: there is no network namespace at {KEY}"]
    assert world.entries == {}
    world.cookies[KEY] = 7  # and nobody says so
    published(world, 1, over=1)
    wait_until(lambda: world.offered == [(endpoint(1).id, False), (endpoint(1).id, True)], WAIT_S,
               "peers to learn of it again")
    wait_until(lambda: outstanding(ledger) == [], WAIT_S, "nothing to be outstanding")


def test_peers_learn_that_an_endpoint_takes_ipv6_now(finisher: Finisher, world: World) -> None:
    """Its record is an older driver's, and the programs of this one are in its sandbox."""
    both_families = replace(endpoint(1), address6=IPv6Interface("fd00::2/64"))
    finisher.expect(both_families, veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    assert world.entries[7].attachments[0].address6 == both_families.address6
    wait_until(lambda: world.offered == [(endpoint(1).id, True, "IPv6")], WAIT_S, "peers to learn")


def test_peers_are_told_once_that_an_endpoint_takes_ipv6(finisher: Finisher, world: World) -> None:
    finisher.expect(replace(endpoint(1), address6=IPv6Interface("fd00::2/64"), takes_ipv6=True),
                    veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    wait_until(lambda: finisher.counts().finished == 1, WAIT_S, "the count")
    assert world.offered == []


def test_peers_are_told_again_when_etcd_was_away(
        finisher: Finisher, world: World, caplog: pytest.LogCaptureFixture) -> None:
    del world.cookies[KEY]
    world.failures = ["offer", "offer"]
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    wait_until(lambda: world.offered == [(endpoint(1).id, False)], WAIT_S, "peers to learn of it")
    assert f"tell peers of endpoint {'1' * 12}: attempt 1 failed: etcd is away" in caplog.text


def test_without_a_port_there_is_no_host_path(finisher: Finisher, world: World,
                                              ledger: Ledger) -> None:
    finisher.expect(endpoint(1, port=0), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)  # services' addresses work all the same
    assert world.entries[7].attachments[0].port == 0
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    published(world, 1, 2, over=2)
    finisher.forget(endpoint(2).id)
    published(world, 1, over=1)
    assert not world.inside[KEY, Vni(1)]
    assert world.offered == []
    assert outstanding(ledger) == []


def test_one_whose_record_has_no_port_gets_one(finisher: Finisher, world: World) -> None:
    """A driver of before has given it up.  Peers learn of the port when it works."""
    world.free_port = 61001
    finisher.expect(endpoint(1, port=0), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    assert world.entries[7].attachments[0].port == 61001
    wait_until(lambda: world.offered == [(endpoint(1).id, True)], WAIT_S, "peers to learn of it")


def test_when_no_port_is_free_it_is_asked_for_again(finisher: Finisher, world: World,
                                                    ledger: Ledger) -> None:
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    published(world, 2, over=2)
    world.failures.append("request_port")
    finisher.expect(endpoint(1, port=0), veth(1))
    up(finisher, 1)
    wait_until(lambda: outstanding(ledger) == [
        f"host path of endpoint {'1' * 12}: no endpoint port is free"], WAIT_S, "it to wait")
    assert [each.port for each in world.entries[7].attachments] == [61002, 0]
    world.free_port = 61001
    world.failures.clear()
    wait_until(lambda: [each.port for each in world.entries[7].attachments] == [61002, 61001],
               WAIT_S, "its port")
    assert world.entries[7].primary_ifindex == 102, "who carries the host path goes on doing so"
    wait_until(lambda: world.offered == [(endpoint(1).id, True)], WAIT_S, "peers to learn of it")
    assert outstanding(ledger) == []


def test_what_a_driver_of_before_left_goes_too(finisher: Finisher, world: World) -> None:
    world.entries[7] = SandboxEntry(7, veth(1).host_ifindex, ())
    finisher.expect(endpoint(1), veth(1))  # found joined at the start; no carrier seen yet
    finisher.forget(endpoint(1).id)
    assert world.entries == {}
    wait_until(lambda: world.torn_down == [KEY], WAIT_S, "the tearing down")


def test_another_namespace_under_the_same_key(finisher: Finisher, world: World) -> None:
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    world.cookies[KEY] = 8
    finisher.expect(endpoint(2), veth(2))
    up(finisher, 2)
    published(world, 2, over=2, cookie=8)
    assert list(world.entries) == [8]


def test_withdrawal_failing_does_not_keep_the_rest(finisher: Finisher, world: World) -> None:
    finisher.expect(endpoint(1), veth(1))
    up(finisher, 1)
    published(world, 1, over=1)
    world.failures = ["withdraw"]
    with pytest.raises(LinkError, match="withdraw"):
        finisher.forget(endpoint(1).id)
    wait_until(lambda: KEY in world.torn_down, WAIT_S, "the tearing down")
    assert world.entries == {}


def test_many_at_once(finisher: Finisher, world: World) -> None:
    keys = {number: f"{KEY}{number}" for number in range(1, 51)}
    world.cookies = {key: 1000 + number for number, key in keys.items()}
    starters = [threading.Thread(target=lambda number=number: (
        finisher.expect(endpoint(number, key=keys[number]), veth(number)), up(finisher, number)))
        for number in keys]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    wait_until(lambda: len(world.entries) == 50, WAIT_S, "50 sandboxes")
    for number in keys:
        finisher.forget(endpoint(number).id)
    assert world.entries == {}
