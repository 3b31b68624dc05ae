"""Tests what the table knows after what it hears, and that its listener hears the same first."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest

from driver.model import Endpoint, EndpointId, Vni
from driver.services.names.table import NameTable
from driver.services.ports import Left, Said, Unreadable
from tests.unit.names.world import OTHER_VNI, VNI, U, endpoint

WEB, DB = endpoint(1, "one", "web"), endpoint(2, "db")
SECOND_WEB = endpoint(3, "three", "web")


class Directory:
    """The listener behind the table: it has what it was told, as the real directory does."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.known: set[tuple[Vni, EndpointId]] = set()
        self.table = NameTable(self, self.knows)

    def knows(self, vni: Vni, endpoint_id: EndpointId) -> bool:
        return (vni, endpoint_id) in self.known

    def snapshot(self, vni: Vni, said: Iterable[Said], revision: int) -> None:
        self.heard.append(("snapshot", vni, revision))
        for one in said:
            self.heard.append(("said", one))
            if isinstance(one, Endpoint):
                self.known.add((vni, one.id))
            elif isinstance(one, Left):
                self.known.discard((vni, one.endpoint.id))

    def put(self, endpoint: Endpoint) -> None:
        self.heard.append(("put", endpoint))
        self.known.add((endpoint.vni, endpoint.id))

    def left(self, vni: Vni, endpoint: Endpoint) -> None:
        self.heard.append(("left", vni, endpoint))
        self.known.discard((vni, endpoint.id))

    def missing(self, vni: Vni, endpoint_id: EndpointId, revision: int) -> None:
        self.heard.append(("missing", vni, endpoint_id, revision))

    def unreadable(self, vni: Vni, endpoint_id: EndpointId) -> None:
        self.heard.append(("unreadable", vni, endpoint_id))

    def unfollowed(self, vni: Vni) -> None:
        self.heard.append(("unfollowed", vni))
        self.known = {each for each in self.known if each[0] != vni}

    def followed(self, vnis: Collection[Vni]) -> None:
        self.heard.append(("followed", tuple(vnis)))

    def settle(self, endpoint: Endpoint) -> None:
        """Take an endpoint that was in doubt for gone."""
        self.known.discard((endpoint.vni, endpoint.id))

    def found(self, name: str, vni: Vni = VNI) -> set[str]:
        return {str(each.address) for each in self.table.find(vni, name)}


@pytest.fixture
def directory() -> Directory:
    made = Directory()
    made.table.snapshot(VNI, [WEB, DB], 5)
    return made


def test_a_list_is_known(directory: Directory) -> None:
    assert directory.found("one") == directory.found("web") == {"10.32.0.1"}
    assert directory.found("db") == {"10.32.0.2"}
    assert directory.found("else") == set()
    assert directory.found("web", OTHER_VNI) == set()
    assert {each.names for each in directory.table.all(VNI)} == {("one", "web"), ("db",)}
    assert directory.table.all(OTHER_VNI) == []
    (named,) = directory.table.find(VNI, "db")
    assert named.underlay == U


def test_a_new_one_is_known(directory: Directory) -> None:
    directory.table.put(SECOND_WEB)
    assert directory.found("web") == {"10.32.0.1", "10.32.0.3"}
    assert directory.found("three") == {"10.32.0.3"}


def test_the_one_that_left_is_not_known_the_others_of_its_name_are(directory: Directory) -> None:
    directory.table.put(SECOND_WEB)
    directory.table.left(VNI, WEB)
    assert directory.found("web") == {"10.32.0.3"}
    assert directory.found("one") == set()
    directory.table.left(VNI, SECOND_WEB)
    directory.table.left(VNI, SECOND_WEB)  # of whom nothing is known
    assert directory.found("web") == set()


def test_a_list_says_who_has_left(directory: Directory) -> None:
    directory.table.snapshot(VNI, [Left(replace(WEB, names=())), DB], 6)
    assert directory.found("web") == set()
    assert directory.found("db") == {"10.32.0.2"}


def test_an_endpoint_in_doubt_keeps_its_names(directory: Directory) -> None:
    directory.table.missing(VNI, WEB.id, 6)
    assert directory.found("web") == {"10.32.0.1"}
    directory.table.unreadable(VNI, DB.id)
    assert directory.found("db") == {"10.32.0.2"}
    directory.table.snapshot(VNI, [], 7)
    directory.table.snapshot(VNI, [Unreadable(DB.id)], 8)
    assert directory.found("web") == {"10.32.0.1"}
    assert directory.found("db") == {"10.32.0.2"}


def test_what_the_directory_does_not_know_is_not_found(directory: Directory) -> None:
    directory.settle(WEB)
    assert directory.found("web") == set()
    assert directory.table.find(VNI, IPv4Address("10.32.0.1")) == []
    assert {each.names for each in directory.table.all(VNI)} == {("db",)}


def test_what_was_settled_is_forgotten_with_the_next_list(directory: Directory) -> None:
    directory.settle(WEB)
    directory.table.snapshot(VNI, [DB], 6)
    directory.known.add((VNI, WEB.id))  # another of this id, without a word about its names
    assert directory.found("web") == set()


def test_renamed(directory: Directory) -> None:
    directory.table.put(replace(WEB, names=("uno", "web")))
    assert directory.found("one") == set()
    assert directory.found("uno") == directory.found("web") == {"10.32.0.1"}
    directory.table.put(replace(WEB, names=()))
    assert directory.found("uno") == directory.found("web") == set()
    directory.table.snapshot(VNI, [replace(WEB, names=("eins",)), DB], 6)
    assert directory.found("eins") == {"10.32.0.1"}


def test_another_address(directory: Directory) -> None:
    directory.table.put(replace(WEB, address=IPv4Interface("10.32.0.9/16")))
    assert directory.found("web") == {"10.32.0.9"}


def test_by_address() -> None:
    directory = Directory()
    directory.table.snapshot(VNI, [replace(endpoint(1, "web", v6=True)), DB], 5)
    for address in (IPv4Address("10.32.0.1"), IPv6Address("fd00::1")):
        (named,) = directory.table.find(VNI, address)
        assert named.names == ("web",)
    assert directory.table.find(VNI, IPv4Address("10.32.0.3")) == []
    assert directory.table.find(OTHER_VNI, IPv4Address("10.32.0.1")) == []


def test_a_network_that_this_host_leaves_is_forgotten(directory: Directory) -> None:
    other = endpoint(1, "web", vni=OTHER_VNI)
    directory.table.put(other)
    directory.table.unfollowed(VNI)
    assert directory.found("web") == set()
    assert directory.found("web", OTHER_VNI) == {"10.32.0.1"}
    directory.known.add((VNI, WEB.id))
    assert directory.found("web") == set(), "it is forgotten, not only hidden"
    directory.table.put(WEB)
    assert directory.found("web") == {"10.32.0.1"}


def test_the_listener_hears_everything_in_order(directory: Directory) -> None:
    del directory.heard[:]
    said: list[Said] = [WEB, Left(DB), Unreadable(SECOND_WEB.id)]
    directory.table.snapshot(VNI, iter(said), 6)
    directory.table.put(DB)
    directory.table.left(VNI, DB)
    directory.table.missing(VNI, DB.id, 7)
    directory.table.unreadable(VNI, DB.id)
    directory.table.unfollowed(VNI)
    directory.table.followed((VNI, OTHER_VNI))
    assert directory.heard == [
        ("snapshot", VNI, 6), *(("said", one) for one in said), ("put", DB), ("left", VNI, DB),
        ("missing", VNI, DB.id, 7), ("unreadable", VNI, DB.id), ("unfollowed", VNI),
        ("followed", (VNI, OTHER_VNI))]


def test_a_listener_that_fails_is_heard_and_half_a_list_removes_nothing(
        directory: Directory) -> None:
    def broken() -> Iterable[Said]:
        yield SECOND_WEB
        raise ConnectionError("etcd is away")

    with pytest.raises(ConnectionError):
        directory.table.snapshot(VNI, broken(), 6)
    assert directory.found("web") == {"10.32.0.1", "10.32.0.3"}
    assert directory.found("db") == {"10.32.0.2"}
