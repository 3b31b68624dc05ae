"""Tests the numbers that stand for hosts' IPv6 addresses in the maps."""

from __future__ import annotations

import ctypes
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from driver.datapath.loading import host_numbers
from driver.datapath.loading.host_numbers import HostNumbers
from driver.errors import DatapathError

A, B = IPv6Address("2001:db8::a"), IPv6Address("2001:db8::b")
FOUR = IPv4Address("192.0.2.1")


class Address(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint64 * 2),)


class Table(dict[bytes, Any]):
    """A map as Table shows it, by the bytes of its keys."""

    def __init__(self, key: type, leaf: type) -> None:
        super().__init__()
        self.Key, self.Leaf = key, leaf
        self.full = False

    def __setitem__(self, key: Any, leaf: Any) -> None:
        if self.full:
            raise DatapathError("map: no space left")
        super().__setitem__(bytes(key), leaf)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Table]:
    monkeypatch.setattr(host_numbers, "entries", lambda table, _chunk: [
        (int.from_bytes(key, "little"), leaf) for key, leaf in table.items()])
    return {"hosts6": Table(ctypes.c_uint32, Address), "numbers6": Table(Address, ctypes.c_uint32)}


def in_memory(number: int) -> IPv4Address:
    return IPv4Address(number.to_bytes(4, "little"))


def test_an_ipv4_address_stands_for_itself(tables: dict[str, Table]) -> None:
    numbers = HostNumbers(tables)
    assert in_memory(numbers.number(FOUR)) == FOUR
    assert numbers.address(numbers.number(FOUR)) == FOUR
    assert tables["hosts6"] == {}


def test_each_ipv6_address_has_its_own_for_good(tables: dict[str, Table]) -> None:
    numbers = HostNumbers(tables)
    a, b = numbers.number(A), numbers.number(B)
    assert [in_memory(each) for each in (a, b)] == [IPv4Address("0.0.0.1"), IPv4Address("0.0.0.2")]
    assert (numbers.number(A), numbers.address(a), numbers.address(b)) == (a, A, B)
    again = HostNumbers(tables)
    assert (again.number(B), again.number(A)) == (b, a)
    assert in_memory(again.number(IPv6Address("2001:db8::c"))) == IPv4Address("0.0.0.3")
    assert {bytes(key): leaf.value for key, leaf in tables["numbers6"].items()} == {
        A.packed: a, B.packed: b, IPv6Address("2001:db8::c").packed: again.number(
            IPv6Address("2001:db8::c"))}


def test_looking_for_an_address_gives_it_no_number(tables: dict[str, Table]) -> None:
    """A container's sockets may name any address; numbers are for good, and there are not many."""
    numbers = HostNumbers(tables)
    a = numbers.number(A)
    assert (numbers.find(A), numbers.find(B), numbers.find(FOUR)) == (a, None, numbers.number(FOUR))
    assert len(tables["hosts6"]) == 1


def test_a_number_that_nobody_has_is_no_host(tables: dict[str, Table]) -> None:
    numbers = HostNumbers(tables)
    for text in ("0.0.0.9", "0.0.0.0", "0.255.255.255"):
        assert numbers.address(int.from_bytes(IPv4Address(text).packed, "little")) is None


def test_a_driver_died_between_the_two_maps(tables: dict[str, Table]) -> None:
    number = HostNumbers(tables).number(A)
    tables["numbers6"].clear()
    assert HostNumbers(tables).number(A) == number
    assert [leaf.value for leaf in tables["numbers6"].values()] == [number]


@pytest.mark.parametrize("full", ["hosts6", "numbers6"])
def test_no_room(tables: dict[str, Table], full: str) -> None:
    numbers = HostNumbers(tables)
    tables[full].full = True
    with pytest.raises(DatapathError, match="host 2001:db8::a cannot be entered"):
        numbers.number(A)
    tables[full].full = False
    later = numbers.number(B)
    assert numbers.number(A) != later, "whatever was written of the first one"
    assert HostNumbers(tables).address(later) == B
