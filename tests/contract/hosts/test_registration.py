"""Tests who may register: copies of a host, shared addresses (the fake, a real etcd)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from driver.errors import StoreUnavailable
from driver.model import Fingerprint, Host, KnownHost
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys, records
from driver.store.hosts.admitted import AdmittedKeyValue
from driver.store.hosts.registration import Return
from driver.store.hosts.registry import EtcdHosts
from driver.store.kv.protocol import Delete, Put
from tests.support.fakes.kv import FakeKeyValue
from tests.support.run.wait import wait_until
from tests.support.world.addressing import host_id

Kv = FakeKeyValue | EtcdKeyValue
TTL_S = 2
HOST = Host(host_id(1), "one", IPv4Address("192.0.2.1"))
MOVED = Host(host_id(1), "one", IPv4Address("192.0.2.9"))
COPY = Host(host_id(1), "copy", IPv4Address("192.0.2.2"))
OTHER = Host(host_id(2), "other", IPv4Address("192.0.2.2"))
SAME_ADDRESS = Host(host_id(2), "other", IPv4Address("192.0.2.1"))
PRINT = Fingerprint("boot", "machine")
REBOOTED = Fingerprint("next boot", "machine")
ELSEWHERE = Fingerprint("another boot", "another machine")
COPIED = "one (192.0.2.1) is registered as host", "copy of the other's disk"


class Machine:
    """A driver's registration."""

    def __init__(self, kv: Kv, host: Host, fingerprint: Fingerprint = PRINT, *,
                 known_before: bool = False) -> None:
        self.host = host
        self.hosts = EtcdHosts(kv, TTL_S, fingerprint=fingerprint, known_before=known_before,
                               on_return=Return(unknown=lambda: "3 endpoints"))
        self.hosts.register(host)
        self.kv = AdmittedKeyValue(kv, lambda: self.hosts.refusal(5))

    def is_in(self) -> bool:
        wait_until(lambda: self.hosts.describe() != "under way", 10, "it has tried")
        return self.hosts.describe().startswith("registered")


class Machines:
    def __init__(self, kv: Kv) -> None:
        self.kv = kv
        self.all: list[Machine] = []

    def start(self, host: Host, fingerprint: Fingerprint = PRINT, *, known_before: bool = False
              ) -> Machine:
        self.all.append(Machine(self.kv, host, fingerprint, known_before=known_before))
        return self.all[-1]

    def killed(self, ttl_s: int) -> None:
        """Leave HOST as if its registered driver had been killed: its lease lives on."""
        lease = self.kv.lease(ttl_s)
        assert self.kv.commit([], [
            Put(keys.host(HOST.id), records.encode(records.registered_fields(HOST, PRINT)),
                lease.id),
            Put(keys.underlay(HOST.underlay), records.encode(records.underlay_fields(HOST)),
                lease.id),
            Put(keys.known(HOST.id), records.encode(records.known_fields(KnownHost(HOST, 0))))])

    def registered(self) -> Host:
        entry = self.kv.get(keys.host(HOST.id))
        assert entry is not None
        return records.decode(entry, records.host)


@pytest.fixture
def machines(kv: Kv) -> Iterator[Machines]:
    made = Machines(kv)
    yield made
    for machine in made.all:
        machine.hosts.close()


@pytest.mark.parametrize(("host", "fingerprint"), [
    (HOST, PRINT), (MOVED, PRINT), (HOST, REBOOTED), (HOST, Fingerprint("boot", "new card"))],
    ids=["started anew", "another underlay", "rebooted at once", "another card"])
def test_a_driver_is_back_at_once(machines: Machines, host: Host, fingerprint: Fingerprint) -> None:
    machines.killed(300)
    back = machines.start(host, fingerprint)
    assert back.is_in()
    assert back.kv.commit([], [Put(keys.ROOT + "x", b"x")])
    assert machines.registered() == host
    entry = machines.kv.get(keys.underlay(host.underlay))
    assert entry is not None
    assert records.decode(entry, records.underlay).id == HOST.id


def test_whether_a_host_is_new(machines: Machines) -> None:
    first = machines.start(HOST)
    assert first.is_in()
    assert first.hosts.joined() is True
    first.hosts.close()
    again = machines.start(HOST)
    assert again.is_in()
    assert again.hosts.joined() is False
    refused = machines.start(SAME_ADDRESS)
    assert not refused.is_in()
    assert refused.hosts.joined() is None


@pytest.mark.parametrize("host", [HOST, MOVED], ids=["as before", "another underlay"])
def test_a_driver_of_before_left_no_fingerprint(machines: Machines, host: Host) -> None:
    lease = machines.kv.lease(300)
    assert machines.kv.commit([], [Put(
        keys.host(HOST.id), records.encode(records.host_fields(HOST)), lease.id)])
    assert machines.start(host).is_in() is (host is HOST)


@pytest.mark.parametrize(("host", "fingerprint", "said"), [
    (COPY, ELSEWHERE, COPIED),
    (COPY, REBOOTED, COPIED),
    (HOST, ELSEWHERE, COPIED),
    (SAME_ADDRESS, ELSEWHERE, ("host one (000000000000) is registered with 192.0.2.1",
                               "--underlay"))],
    ids=["a copy", "a copy with its machine-id", "a copy at its address", "two at one address"])
def test_the_second_is_refused_while_the_first_lives(
        machines: Machines, caplog: pytest.LogCaptureFixture, host: Host, fingerprint: Fingerprint,
        said: tuple[str, str]) -> None:
    first = machines.start(HOST)
    assert first.is_in()
    second = machines.start(host, fingerprint)
    assert not second.is_in()
    for ask in (lambda: second.kv.commit([], [Put(keys.ROOT + "x", b"x")]),
                lambda: second.kv.get("x"), lambda: second.kv.range("x"),
                lambda: second.kv.count("x"), lambda: second.kv.lease(5)):
        with pytest.raises(StoreUnavailable) as refused:
            ask()
        assert all(part in str(refused.value) for part in said)
    assert not second.hosts.settled.is_set()
    assert machines.kv.get(keys.ROOT + "x") is None
    assert machines.registered() == HOST
    assert second.hosts.describe().startswith("refused: ")
    assert first.hosts.describe() == "registered"
    first.hosts.close()
    wait_until(second.hosts.settled.is_set, 10, "it takes the dead one's place")
    assert second.kv.get("x") is None
    assert caplog.text.count(said[1]) == 1  # after many attempts


def test_it_waits_until_a_killed_ones_lease_is_over(machines: Machines) -> None:
    machines.killed(TTL_S)
    second = machines.start(COPY, ELSEWHERE)
    assert not second.is_in()
    wait_until(second.hosts.settled.is_set, 20, "the first one's lease is over")
    assert machines.registered() == COPY


def test_the_running_one_notices_a_changed_record(
        machines: Machines, caplog: pytest.LogCaptureFixture) -> None:
    """An older driver does not ask whether another one is registered."""
    running = machines.start(HOST)
    assert running.is_in()
    assert machines.kv.commit([], [Put(keys.host(HOST.id), records.encode(
        records.host_fields(COPY)))])
    wait_until(lambda: "copy (192.0.2.2) is registered as host" in running.hosts.describe(), 10,
               "it notices")
    assert caplog.text.count("Both write the same records") == 1
    assert machines.registered() == COPY  # they do not take turns
    assert running.kv.get("x") is None  # neither is known to be right: what runs goes on
    assert machines.kv.commit([], [Delete(keys.host(HOST.id))])
    wait_until(lambda: running.hosts.describe() == "registered", 10, "the other one has gone")


def test_before_the_first_attempt_calls_wait(machines: Machines) -> None:
    kv = machines.kv
    hosts = EtcdHosts(kv)
    assert hosts.describe() == "not begun"
    assert machines.start(HOST).kv.get("x") is None


@pytest.mark.parametrize("value", [b"garbage", b'{"schema":2}'])
def test_records_of_its_own_that_cannot_be_read(machines: Machines, value: bytes) -> None:
    """It rewrites those under a lease, leaves the others alone, and registers."""
    kv = machines.kv
    assert kv.commit([], [Put(key, value) for key in (
        keys.host(HOST.id), keys.underlay(HOST.underlay), keys.known(HOST.id))])
    assert machines.start(HOST).is_in()
    assert machines.registered() == HOST
    known = kv.get(keys.known(HOST.id))
    assert known is not None
    assert known.value == value


@pytest.mark.parametrize("known_before", [True, False])
def test_a_host_that_etcd_does_not_know_any_more(
        machines: Machines, caplog: pytest.LogCaptureFixture, *, known_before: bool) -> None:
    started = machines.start(HOST, known_before=known_before)
    assert started.is_in()
    text = "etcd did not know this host any more: it had 3 endpoints"
    assert (text in started.hosts.describe()) is (text in caplog.text) is known_before
