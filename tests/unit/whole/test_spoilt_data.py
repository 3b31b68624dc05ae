"""The table of what is spoilt has every kind of key, and spoils it as it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from driver.errors import UnsupportedRecord
from driver.model import EndpointId, HostId, NetworkId, Vni
from driver.store.format import keys, records
from driver.store.kv.protocol import Entry
from tests.support.faults import spoilt_data
from tests.support.faults.spoilt_data import FAMILIES, Case, Kind, When, covering, product

FIRST, SECOND, VIP, OTHER_VIP, TASK = (IPv4Address(text) for text in (
    "10.50.0.2", "10.50.0.3", "10.50.200.1", "10.50.200.2", "10.50.0.4"))


@dataclass
class Somewhere:
    """spoilt_data.Places."""

    hosts_ids: tuple[HostId, HostId, HostId] = (
        HostId("a" * 32), HostId("b" * 32), HostId("c" * 32))
    endpoints: tuple[EndpointId, EndpointId] = EndpointId("1e" * 32), EndpointId("2e" * 32)
    addresses: tuple[IPv4Address, IPv4Address] = FIRST, SECOND
    networks: tuple[NetworkId, NetworkId] = NetworkId("8c" * 32), NetworkId("9c" * 32)
    pools: tuple[str, str] = "10.50.0.0/16", "10.51.0.0/16"
    vnis: tuple[Vni, Vni] = Vni(7), Vni(8)
    vips: tuple[IPv4Address, IPv4Address] = VIP, OTHER_VIP
    swarms: tuple[str, str] = "one", "two"
    underlays: tuple[IPv4Address, IPv4Address] = VIP, OTHER_VIP
    other_task: IPv4Address = TASK


PLACES = Somewhere()


def test_every_kind_of_key_is_spoilt() -> None:
    assert {name for name, _ in spoilt_data.spelled()} == FAMILIES.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_its_key_is_of_that_kind(name: str) -> None:
    sample = dict(spoilt_data.spelled())[name]
    key, other = FAMILIES[name].keys(PLACES)
    assert key != other
    assert shape(key) == shape(sample)


def shape(key: str) -> list[str]:
    """The words in it that are not of this very record."""
    first, *parts = key.removeprefix(keys.ROOT).split("/")
    return [first, *(part if part in spoilt_data.WORDS else "" for part in parts)]


def test_the_covering_selection() -> None:
    chosen = covering()
    assert set(chosen) < set(product())
    assert sorted(case.family for case in chosen) == sorted(FAMILIES)
    for when in When:
        for kind in Kind:
            assert len([case for case in chosen if (case.when, case.kind) == (when, kind)]) >= 2
    assert len({str(case) for case in product()}) == len(product())
    assert str(Case(When.RUNNING, "vni", Kind.NEWER)) == "running-vni-newer-schema"


@pytest.mark.parametrize("kind", Kind)
def test_what_spoiling_does(kind: Kind) -> None:
    family = FAMILIES["host"]
    key, other = family.keys(PLACES)
    values = {key: records.encode({"id": "1", "underlay": "198.18.7.1"}),
              other: records.encode({"id": "2", "underlay": "198.18.7.2"})}
    changes = spoilt_data.spoilt(family, kind, PLACES, values)
    if kind is Kind.DELETED:
        assert changes == {key: None}
    elif kind is Kind.SWAPPED:
        assert changes == {key: values[other], other: values[key]}
    elif kind is Kind.OLDER:
        fields = records.decode(Entry(key, changes[key] or b"", 1), dict)
        assert (fields["id"], fields["underlay"]) == ("1", "198.18.7.91")
    else:
        with pytest.raises(UnsupportedRecord, match="schema 2" if kind is Kind.NEWER else "no rec"):
            records.decode(Entry(key, changes[key] or b"", 1), dict)
    for each, value in changes.items():
        assert not spoilt_data.same(value, values[each])


@pytest.mark.parametrize("name", [each.name for each in FAMILIES.values() if each.by_hand])
def test_what_is_spoilt_by_hand(name: str) -> None:
    family = FAMILIES[name]
    key, _ = family.keys(PLACES)
    right = records.encode({"id": "1", **dict.fromkeys(family.by_hand, True)})
    all_changes = spoilt_data.by_hand(family, PLACES, {key: right})
    assert len(all_changes) == sum(map(len, family.by_hand.values()))
    for changes in all_changes:
        (spoilt,) = changes.values()
        fields = records.decode(Entry(key, spoilt or b"", 1), dict)
        assert fields["id"] == "1"
        assert any(fields.get(each) is not True for each in family.by_hand)


def test_values_say_the_same_whoever_wrote_them() -> None:
    assert spoilt_data.same(records.encode({"id": "1"}), records.encode({"id": "1"}))
    assert not spoilt_data.same(records.encode({"id": "1"}), records.encode({"id": "2"}))
    assert not spoilt_data.same(json.dumps({}).encode(), None)
    assert spoilt_data.same(None, None)


def test_what_a_report_may_call_a_record() -> None:
    assert spoilt_data.names(FAMILIES["address"], PLACES) == [
        "/slim/v1/addresses/10.50.0.0%2F16/0a320002", "1e" * 6, "10.50.0.0/16", "10.50.0.2"]
    reports = spoilt_data.Reports(["x WARNING y: endpoint 1e1e1e1e1e1e is in doubt"])
    assert reports.name(spoilt_data.names(FAMILIES["local_endpoint"], PLACES))
    assert not reports.name(spoilt_data.names(FAMILIES["service"], PLACES))
