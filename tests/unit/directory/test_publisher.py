"""The directory's listener: what the maps say after what the feed says, and what is in doubt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from driver.errors import DatapathError, StoreUnavailable
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.directory.entries import Entry
from driver.services.directory.publisher import HostDoubts, Publisher
from driver.services.ports import Left, Said, Unreadable
from driver.work.ledger import Ledger
from tests.support.fakes.ports import HOST, FakeDatapath, Faults, World

NET = NetworkId("8c1f" * 16)
OTHER = HostId("b" * 32)
VNI = Vni(7)
THERE = "198.18.0.2"
U = IPv4Address(THERE)


def endpoint(name: str, address: str = "10.50.0.2/16", host: HostId = HOST.id,
             underlay: str = "198.18.0.1", sandbox_key: str = "", *, port: int = 61000) -> Endpoint:
    return Endpoint(EndpointId(name * 16), NET, VNI, host, IPv4Address(underlay), bytes(6),
                    IPv4Interface(address), None, port, sandbox_key)


def there(name: str, address: str, port: int = 61000) -> Endpoint:
    """One of another host."""
    return endpoint(name, address, OTHER, THERE, port=port)


def place(endpoint: Endpoint) -> tuple[object, ...]:
    assert endpoint.address is not None
    return endpoint.vni, endpoint.address.ip, endpoint.underlay, endpoint.port, endpoint.mac


def of(endpoint: Endpoint) -> Entry:
    """What the maps know of it."""
    return Entry.of(endpoint, others=True)


class RecordingDatapath(FakeDatapath):
    """Remembers the directory and the floods as the maps would hold them."""

    def entered(self) -> dict[EndpointId, Entry]:
        return {endpoint_id: of(known) for endpoint_id, known in self.directory.items()}

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults)
        self.places: dict[object, Endpoint] = {}  # the map's key is VNI and address
        self.empty = False  # some time after the first entry
        self.floods: dict[Vni, tuple[list[str], list[int]]] = {}
        self.reverse: dict[object, object] = {}  # U, P -> VNI, address

    def put_remote(self, endpoint: Endpoint) -> None:
        self.faults.effect("datapath.put_remote", lambda: self.enter(endpoint))

    def enter(self, endpoint: Endpoint) -> None:
        if endpoint.address is not None:
            self.places[place(endpoint)[:2]] = endpoint
            self.reverse[endpoint.underlay, endpoint.port] = place(endpoint)[:2]
        if endpoint.address6 is not None:
            self.places[endpoint.vni, endpoint.address6.ip] = endpoint

    def has_lost_its_port(self, endpoint: Endpoint) -> bool:
        assert endpoint.address is not None
        return self.reverse.get((endpoint.underlay, endpoint.port)) not in (
            None, (endpoint.vni, endpoint.address.ip))

    @property
    def directory(self) -> dict[EndpointId, Endpoint]:
        assert len({known.id for known in self.places.values()}) == len(self.places)
        return {known.id: known for known in self.places.values()}

    def list_remotes(self) -> list[Endpoint]:
        """As the maps say it: one address each, and no names."""
        return [replace(known, id=EndpointId(""), network_id=NetworkId(""), host=HostId(""),
                        sandbox_key="",
                        address=known.address if isinstance(ip, IPv4Address) else None,
                        address6=None if isinstance(ip, IPv4Address) else known.address6)
                for (_, ip), known in self.places.items()]  # type: ignore[misc,has-type]

    def list_floods(self) -> list[Vni]:
        return [vni for vni, floods in self.floods.items() if floods != ([], [])]

    def addresses(self) -> list[str]:
        return sorted(str(ip) for _, ip in self.places)  # type: ignore[misc,has-type]

    def delete_remote(self, endpoint: Endpoint) -> None:
        # By what an entry says: the names are not in the maps, and what is overwritten stays.
        if endpoint.address is not None:
            known = self.places.get(place(endpoint)[:2])
            if known is not None and place(known) == place(endpoint):
                del self.places[place(endpoint)[:2]]
                self.empty |= not self.places
            if self.reverse.get((endpoint.underlay, endpoint.port)) == place(endpoint)[:2]:
                del self.reverse[endpoint.underlay, endpoint.port]
        if endpoint.address6 is not None:
            found = self.places.get((endpoint.vni, endpoint.address6.ip))
            if found is not None and found.underlay == endpoint.underlay:
                del self.places[endpoint.vni, endpoint.address6.ip]

    def set_flood(self, vni, hosts, ifindexes) -> None:  # type: ignore[no-untyped-def]
        self.faults.effect("datapath.set_flood", lambda: self.floods.__setitem__(
            vni, ([str(host) for host in hosts], list(ifindexes))))


@pytest.fixture
def datapath() -> RecordingDatapath:
    return RecordingDatapath(Faults(error=DatapathError))


def test_an_entry_goes_when_its_host_says_so(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    a, b = endpoint("a"), there("b", "10.50.0.3/16")
    publisher.snapshot(VNI, [a, b], 5)
    assert set(datapath.directory) == {a.id, b.id}
    assert datapath.floods[VNI] == ([THERE], [])
    publisher.left(VNI, a)
    assert set(datapath.directory) == {b.id}
    publisher.left(VNI, a)
    publisher.snapshot(VNI, [Left(b), Left(there("c", "10.50.0.4/16"))], 7)
    assert datapath.directory == {}
    assert datapath.floods[VNI] == ([], [])
    assert publisher.uncertain().missing == 0


def test_what_is_missing_is_in_doubt_and_stays(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id, clock=lambda: 3.0)
    b, c = there("b", "10.50.0.3/16"), there("c", "10.50.0.4/16", 61001)
    publisher.snapshot(VNI, [b, c], 5)
    publisher.snapshot(VNI, [b], 8)
    publisher.missing(VNI, b.id, 9)
    publisher.missing(VNI, EndpointId("never heard of"), 10)
    assert set(datapath.directory) == {b.id, c.id}
    assert datapath.floods[VNI] == ([THERE], [])
    assert publisher.uncertain().hosts == {U: HostDoubts(2, 9, 3.0)}
    publisher.put(b)
    publisher.snapshot(VNI, [b, c], 12)
    assert publisher.uncertain().hosts == {}


def test_all_is_lost_and_nothing_goes_floods_included(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    many = [there("b", f"10.50.{n // 250}.{n % 250 + 1}/16", 10000 + n) for n in range(2000)]
    many = [replace(one, id=EndpointId(f"{n:064}")) for n, one in enumerate(many)]
    publisher.snapshot(VNI, many, 5)
    before = dict(datapath.places)
    for one in many:
        publisher.missing(VNI, one.id, 6)
    publisher.snapshot(VNI, [], 1)
    assert (datapath.places, datapath.floods[VNI]) == (before, ([THERE], []))
    found = publisher.uncertain().hosts[U]
    assert (found.count, found.revision) == (2000, 1), "as of the newest list, of whatever etcd"
    effects = len(datapath.faults.done)
    publisher.snapshot(VNI, many, 3)
    assert publisher.uncertain().hosts == {}
    assert len(datapath.faults.done) == effects, "nothing is written again"


class Etcd:
    """What a network's prefix holds when it is read again."""

    def __init__(self, *said: Said) -> None:
        self.said = list(said)
        self.reads = 0

    def read(self, vni: Vni) -> Iterator[Said]:
        assert vni == VNI
        self.reads += 1
        return iter(self.said)


def test_the_hosts_own_word_settles(datapath: RecordingDatapath) -> None:
    publisher, etcd = Publisher(datapath, HOST.id), Etcd()
    b, c, other = (there("b", "10.50.0.3/16"), there("c", "10.50.0.4/16", 61001),
                   endpoint("d", "10.50.0.5/16", HostId("d" * 32), "198.18.0.4"))
    publisher.snapshot(VNI, [b, c, other], 5)
    for number, one in enumerate((b, c, other)):
        publisher.missing(VNI, one.id, 10 + number)
    assert publisher.settle({U: 9}, etcd.read) == {}
    assert etcd.reads == 0, "nobody asks for what is not settled"
    assert publisher.settle({U: 10}, etcd.read) == {U: 1}
    assert set(datapath.directory) == {c.id, other.id}, "c was lost after the answer"
    etcd.said = [c]
    assert publisher.settle({U: 20}, etcd.read) == {}, "on record again: the feed will say it"
    etcd.said = [Unreadable(c.id)]
    assert publisher.settle({U: 20}, etcd.read) == {}
    etcd.said = [Left(c)]
    assert publisher.settle({U: 20}, etcd.read) == {U: 1}
    assert set(datapath.directory) == {other.id}, "another host's word"
    assert datapath.floods[VNI] == (["198.18.0.4"], [])


def test_an_answer_is_not_about_what_is_lost_anew(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    b = there("b", "10.50.0.3/16")
    publisher.snapshot(VNI, [b], 5)
    publisher.missing(VNI, b.id, 10)

    def read(_: Vni) -> list[Said]:
        publisher.put(b)
        publisher.missing(VNI, b.id, 30)
        return []

    assert publisher.settle({U: 20}, read) == {}
    assert set(datapath.directory) == {b.id}

    def fails(_: Vni) -> list[Said]:
        raise StoreUnavailable("etcd is away")

    with pytest.raises(StoreUnavailable):
        publisher.settle({U: 30}, fails)
    assert set(datapath.directory) == {b.id}


def test_an_address_has_one_endpoint(datapath: RecordingDatapath) -> None:
    """Whoever gets the address of one that is in doubt ends the doubt."""
    publisher = Publisher(datapath, HOST.id)
    b = there("b", "10.50.0.3/16")
    publisher.snapshot(VNI, [b], 5)
    publisher.missing(VNI, b.id, 6)
    after = endpoint("c", "10.50.0.3/16", HostId("c" * 32), "198.18.0.3")
    publisher.put(after)
    assert datapath.entered() == {after.id: of(after)}
    assert not datapath.empty, "connect() finds one or the other at each moment"
    assert (publisher.uncertain().missing, datapath.floods[VNI]) == (0, (["198.18.0.3"], []))
    # In a list, too, in whichever order.
    for newer, number in ((there("a", "10.50.0.3/16"), 7), (there("z", "10.50.0.3/16"), 8)):
        publisher.snapshot(VNI, [newer], number)
        assert [(known.id, place(known)) for known in datapath.places.values()] == [
            (newer.id, place(newer))]


def test_a_port_of_a_host_has_one_endpoint(datapath: RecordingDatapath) -> None:
    """Calls to the address of who had it before would reach the wrong container."""
    publisher = Publisher(datapath, HOST.id)
    b, elsewhere = there("b", "10.50.0.3/16"), replace(there("c", "10.60.0.9/16"), vni=Vni(8))
    publisher.snapshot(VNI, [b], 5)
    publisher.missing(VNI, b.id, 6)
    publisher.put(elsewhere)  # same U and P
    assert set(datapath.directory) == {elsewhere.id}
    # The other way round: the port was another's by the time that the record is missed.
    publisher.put(replace(b, port=61001))
    publisher.put(replace(there("d", "10.60.0.10/16", 61001), vni=Vni(8)))
    publisher.missing(VNI, b.id, 7)
    assert b.id not in datapath.directory
    assert publisher.uncertain().hosts == {}


def test_two_that_are_on_record_with_one_address(datapath: RecordingDatapath,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    publisher = Publisher(datapath, HOST.id)
    b, c = there("b", "10.50.0.3/16"), there("c", "10.50.0.3/16", 61001)
    publisher.put(b)
    publisher.put(c)
    publisher.snapshot(VNI, [c, b], 7)
    assert datapath.entered() == {b.id: of(b)}, "the earlier one is in use"
    assert caplog.text.count("has on record, too") == 1
    assert publisher.uncertain().contested == 1
    publisher.left(VNI, b)
    assert [place(one) for one in datapath.directory.values()] == [place(c)]
    assert publisher.uncertain().contested == 0
    publisher.put(b)
    publisher.missing(VNI, c.id, 9)
    assert [place(one) for one in datapath.directory.values()] == [place(b)]


def test_what_cannot_be_read_stays_as_it_was_known(datapath: RecordingDatapath) -> None:
    publisher, etcd = Publisher(datapath, HOST.id), Etcd()
    b = there("b", "10.50.0.3/16")
    publisher.snapshot(VNI, [b], 5)
    publisher.unreadable(VNI, b.id)
    publisher.snapshot(VNI, [Unreadable(b.id), Unreadable(EndpointId("x"))], 7)
    assert set(datapath.directory) == {b.id}
    found = publisher.uncertain()
    assert (found.missing, len(found.unreadable)) == (0, 2)
    assert publisher.settle({U: 99}, etcd.read) == {}, "its host has it on record"
    publisher.put(b)
    assert len(publisher.uncertain().unreadable) == 1
    publisher.unreadable(VNI, b.id)
    publisher.snapshot(VNI, [], 8)
    assert (publisher.uncertain().missing, publisher.uncertain().unreadable) == (1, ())
    publisher.unreadable(VNI, b.id)
    publisher.left(VNI, b)
    assert datapath.directory == {}


@pytest.fixture
def ledger() -> Ledger:
    """What is outstanding; the tests run it."""
    return Ledger()


@pytest.fixture
def restarted(datapath: RecordingDatapath, ledger: Ledger) -> Publisher:
    """A driver over the maps of one before: b and c of another host, one with IPv6, and a here."""
    before = Publisher(datapath, HOST.id)
    before.snapshot(VNI, [endpoint("a"), there("b", "10.50.0.3/16"), replace(
        there("c", "10.50.0.4/16", 61001), address6=IPv6Interface("fd00::4/64"))], 5)
    datapath.faults.reset()
    return Publisher(datapath, HOST.id, underlay=IPv4Address("198.18.0.1"), clock=lambda: 3.0,
                     ledger=ledger)


ALL = ["10.50.0.2", "10.50.0.3", "10.50.0.4", "fd00::4"]


def test_a_driver_that_starts_keeps_what_the_one_before_knew(
        datapath: RecordingDatapath, restarted: Publisher, ledger: Ledger) -> None:
    ledger.run()
    datapath.attached = {VNI}
    restarted.followed([VNI])
    assert datapath.faults.done == [], "it is as it was left"
    assert restarted.uncertain().missing == 0, "no list has been read"
    restarted.snapshot(VNI, [endpoint("a"), there("b", "10.50.0.3/16")], 8)
    assert datapath.addresses() == ALL
    assert datapath.floods[VNI] == ([THERE], [])
    assert restarted.uncertain().hosts == {U: HostDoubts(2, 8, 3.0)}
    restarted.snapshot(VNI, [], 9)
    assert datapath.addresses() == ALL
    assert restarted.uncertain().missing == 4
    restarted.snapshot(VNI, [endpoint("a"), there("b", "10.50.0.3/16"), replace(
        there("c", "10.50.0.4/16", 61001), address6=IPv6Interface("fd00::4/64"))], 10)
    assert restarted.uncertain().hosts == {}
    assert restarted.directory_size() == 3


def test_a_tombstone_ends_what_was_inherited(datapath: RecordingDatapath, restarted: Publisher
                                             ) -> None:
    c = replace(there("c", "10.50.0.4/16", 61001), address6=IPv6Interface("fd00::4/64"))
    # One that was at that address before says nothing of who has it now.
    restarted.snapshot(VNI, [Left(there("x", "10.50.0.3/16", 61009)), Left(c)], 8)
    assert datapath.addresses() == ALL[:2]
    assert restarted.uncertain().missing == 2


def test_an_answer_ends_what_was_inherited(datapath: RecordingDatapath, restarted: Publisher
                                           ) -> None:
    restarted.snapshot(VNI, [Unreadable(EndpointId("x"))], 8)
    unreadable = Etcd(Unreadable(EndpointId("x")))
    assert restarted.settle({U: 9}, unreadable.read) == {}, "perhaps that one"
    assert restarted.settle({U: 9}, Etcd(there("b", "10.50.0.3/16")).read) == {U: 2}
    assert datapath.addresses() == ALL[:2], "b is on record by now, and a is not that host's"


def test_one_that_has_another_place_now_takes_it_at_once(
        datapath: RecordingDatapath, restarted: Publisher) -> None:
    moved = there("n", "10.50.0.3/16", 61005)
    restarted.snapshot(VNI, [moved], 8)
    assert place(datapath.places[VNI, IPv4Address("10.50.0.3")]) == place(moved)
    assert (U, 61000) not in datapath.reverse
    assert restarted.uncertain().missing == 3


def test_networks_of_which_nothing_is_on_record_here(
        datapath: RecordingDatapath, restarted: Publisher) -> None:
    """Its entries go if no container of this host can use them, and only then."""
    datapath.attached = {VNI}
    restarted.followed([])
    assert (datapath.addresses(), datapath.floods[VNI]) == (ALL, ([THERE], []))
    assert restarted.uncertain().unlisted == 4
    restarted.followed([VNI])
    assert restarted.uncertain().unlisted == 0
    datapath.attached = set()
    restarted.followed([])
    assert (datapath.addresses(), datapath.floods[VNI]) == ([], ([], []))
    assert restarted.directory_size() == 0


def test_a_network_that_docker_deletes_goes_whole(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    b, c = there("b", "10.50.0.3/16"), there("c", "10.50.0.4/16", 61001)
    publisher.snapshot(VNI, [b, c, Unreadable(EndpointId("x")), there("d", "10.50.0.4/16")], 5)
    publisher.missing(VNI, b.id, 6)
    publisher.unfollowed(VNI)
    publisher.unfollowed(VNI)
    assert (datapath.places, datapath.floods[VNI]) == ({}, ([], []))
    assert publisher.uncertain() == Publisher(
        RecordingDatapath(Faults()), HOST.id).uncertain()


def test_who_has_an_address_is_told(datapath: RecordingDatapath) -> None:
    publisher, told = Publisher(datapath, HOST.id), []
    publisher.on_address = lambda vni, address: told.append((vni, str(address)))
    publisher.put(endpoint("a"))
    publisher.put(endpoint("a"))
    assert told == [(VNI, "10.50.0.2")]


def test_one_that_takes_the_place_of_another_keeps_its_entry(
        datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    publisher.snapshot(VNI, [endpoint("a")], 5)
    publisher.snapshot(VNI, [Left(endpoint("a")), endpoint("b")], 6)  # same address, port and MAC
    assert set(datapath.directory) == {endpoint("b").id}
    publisher.snapshot(VNI, [Left(endpoint("a")), Left(endpoint("b"))], 7)
    assert datapath.directory == {}


def test_a_changed_endpoint_replaces_its_old_entry(datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    publisher.put(endpoint("a"))
    moved = endpoint("a", host=OTHER, underlay="198.18.0.2")
    publisher.put(moved)
    assert datapath.entered() == {moved.id: of(moved)}
    writes = len(datapath.faults.done)
    publisher.put(endpoint("a", host=OTHER, underlay="198.18.0.2", sandbox_key="/x"))
    assert len(datapath.faults.done) == writes  # joining is nothing to its peers


def test_a_changed_endpoint_is_known_all_the_time(datapath: RecordingDatapath) -> None:
    """No connect() finds it missing: what is new is entered before what is old goes."""
    publisher = Publisher(datapath, HOST.id)
    for changed in (endpoint("a"), replace(endpoint("a"), port=61001),
                    replace(endpoint("a", "10.50.0.3/16"), port=61001),
                    replace(endpoint("a", "10.50.0.3/16"), port=61001, mac=b"\2" * 6),
                    endpoint("a", "10.50.0.4/16", OTHER, "198.18.0.2")):
        publisher.put(changed)
        assert [place(known) for known in datapath.directory.values()] == [place(changed)]
    assert not datapath.empty


def test_a_refused_change_leaves_nothing_outdated(datapath: RecordingDatapath,
                                                  ledger: Ledger) -> None:
    publisher = Publisher(datapath, HOST.id, ledger=ledger)
    publisher.put(endpoint("a"))
    datapath.faults.reset()
    datapath.faults.fail_at = 1
    publisher.put(endpoint("a", "10.50.0.3/16"))
    assert datapath.directory == {}
    datapath.faults.reset()
    ledger.run()
    assert ledger.outstanding() == []
    assert [place(known)[1] for known in datapath.directory.values()] == [
        IPv4Address("10.50.0.3")]


def test_a_refused_entry_is_tried_again_with_the_next_snapshot(
        datapath: RecordingDatapath) -> None:
    publisher = Publisher(datapath, HOST.id)
    datapath.faults.fail_at = 1
    publisher.put(endpoint("a"))
    assert datapath.directory == {}
    datapath.faults.reset()
    publisher.snapshot(Vni(7), [endpoint("a")], 5)
    assert set(datapath.directory) == {endpoint("a").id}


def test_local_links_get_broadcasts_while_they_are_published(
        datapath: RecordingDatapath, ledger: Ledger) -> None:
    world = World()
    veth = world.links.create_veth(endpoint("a").id, bytes(6), 1500)
    publisher = Publisher(datapath, HOST.id, ledger=ledger)
    publisher.publish_endpoint(endpoint("a"), veth)
    assert datapath.floods[Vni(7)] == ([], [veth.host_ifindex])
    publisher.withdraw_endpoint(endpoint("a"), 0)
    assert datapath.floods[Vni(7)] == ([], [])
    assert datapath.withdrawn_ifindexes == [veth.host_ifindex]  # known though the link is gone
    datapath.faults.reset()
    datapath.faults.error = DatapathError
    datapath.faults.fail_at = 2
    publisher.publish_endpoint(endpoint("a"), veth)  # no room: all but broadcasts work
    assert set(datapath.live) == {endpoint("a").id}
    assert datapath.floods[Vni(7)] == ([], [])
    ledger.run()
    assert ledger.outstanding() == []
    assert datapath.floods[Vni(7)] == ([], [veth.host_ifindex])
    datapath.faults.reset()
    datapath.faults.fail_at = 2
    publisher.withdraw_endpoint(endpoint("a"), veth.host_ifindex)
    assert datapath.live == {}
    ledger.run()
    assert ledger.outstanding() == []
    assert datapath.floods[Vni(7)] == ([], [])
