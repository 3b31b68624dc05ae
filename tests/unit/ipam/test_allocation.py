"""Tests driver/ipam/allocation.py and grants.py: which address is assigned."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.ipam.allocation import Span, choose, find_gap, lowest, to_address, usable
from driver.ipam.grants import refusal
from driver.model import EndpointId, Hold, HoldKind, Reservation


@pytest.mark.parametrize(("subnet", "first", "last"), [
    ("10.0.0.0/8", "10.0.0.1", "10.255.255.254"),
    ("10.1.0.0/16", "10.1.0.1", "10.1.255.254"),
    ("10.1.2.0/24", "10.1.2.1", "10.1.2.254"),
    ("10.1.2.8/29", "10.1.2.9", "10.1.2.14"),
    ("10.1.2.8/30", "10.1.2.9", "10.1.2.10"),
    ("10.1.2.8/31", "10.1.2.8", "10.1.2.9"),
    ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
    ("fd00::/112", "fd00::1", "fd00::ffff"),
    ("fd00::/127", "fd00::", "fd00::1"),
])
def test_usable(subnet: str, first: str, last: str) -> None:
    network = ip_network(subnet)
    span = usable(network)
    assert [str(to_address(network, n)) for n in (span.first, span.last)] == [first, last]


@pytest.mark.parametrize(("sub_pool", "size"), [
    ("10.1.0.0/24", 255), ("10.1.255.0/24", 255), ("10.1.7.0/24", 256), ("10.1.7.9/32", 1)])
def test_usable_in_a_sub_pool(sub_pool: str, size: int) -> None:
    assert usable(ip_network("10.1.0.0/16"), ip_network(sub_pool)).size == size


spans = st.builds(lambda first, size: Span(first, first + size - 1),
                  st.integers(0, 50), st.integers(0, 40))
taken_sets = st.frozensets(st.integers(0, 100), max_size=60)


@given(spans, taken_sets, st.integers(), st.integers(1, 60))
def test_choose_gives_free_ones_and_each_once(
        span: Span, taken: frozenset[int], seed: int, count: int) -> None:
    free = set(range(span.first, span.last + 1)) - taken
    chosen = choose(span, taken, Random(seed), count)
    assert free.issuperset(chosen)
    assert len(set(chosen)) == len(chosen) == min(count, len(free))
    assert lowest(span, taken) == min(free, default=None)


@given(st.frozensets(st.integers(0, 9), max_size=8))
def test_choose_reaches_every_free_one(taken: frozenset[int]) -> None:
    seen = {number for seed in range(300) for number in choose(Span(0, 9), taken, Random(seed))}
    assert seen == set(range(10)) - taken


@given(spans, taken_sets, st.integers(1, 50))
def test_find_gap_finds_one_if_there_is_one(
        span: Span, taken: frozenset[int], most: int) -> None:
    def count(part: Span) -> int:
        return sum(part.first <= n <= part.last for n in taken)

    gap = find_gap(span, count, most)
    if count(span) >= span.size:
        assert gap is None
    else:
        assert gap is not None
        assert gap.size <= most or gap == span
        assert span.first <= gap.first <= gap.last <= span.last
        assert count(gap) < gap.size


def test_find_gap_asks_rarely() -> None:
    asked: list[Span] = []
    whole = usable(ip_network("fd00::/64"))
    hole = whole.first + 123456789

    def count(part: Span) -> int:
        asked.append(part)
        return part.size - (part.first <= hole <= part.last)

    gap = find_gap(whole, count, 256)
    assert gap is not None
    assert gap.first <= hole <= gap.last
    assert len(asked) <= 64


ADDRESS = IPv4Address("10.1.0.5")
DYNAMIC, EXACT, GATEWAY = (Hold(kind) for kind in HoldKind)


@pytest.mark.parametrize(("holds", "endpoint", "holder", "hold", "says"), [
    ({}, "", "a", EXACT, ""),
    ({}, "e" * 64, "a", EXACT, "belongs to endpoint eeeeeeeeeeee"),
    ({"a": EXACT}, "e" * 64, "a", EXACT, "belongs to endpoint eeeeeeeeeeee of host a"),
    ({"b": EXACT}, "", "a", EXACT, ""),
    ({"b": DYNAMIC}, "", "a", EXACT, "was given to a container of host b"),
    ({"a": DYNAMIC}, "", "a", EXACT, "was given to a container of host a"),
    ({"a": Hold(HoldKind.DYNAMIC, "web")}, "", "a", Hold(HoldKind.EXACT, "web"), ""),
    ({"b": Hold(HoldKind.DYNAMIC, "web")}, "", "a", Hold(HoldKind.EXACT, "web"), "host b"),
    ({"b": GATEWAY}, "", "a", EXACT, "is the network's gateway"),
    ({"b": GATEWAY}, "", "a", GATEWAY, ""),
    ({"b": EXACT}, "", "a", GATEWAY, ""),
    ({"b": DYNAMIC}, "", "a", GATEWAY, "host b"),
    ({"global": DYNAMIC}, "", "a", EXACT, ""),
    ({"global": DYNAMIC, "b": DYNAMIC}, "e", "a", EXACT, ""),
    ({"b": DYNAMIC}, "e" * 64, "global", EXACT, ""),
])
def test_who_may_have_a_named_address(holds: dict[str, Hold], endpoint: str, holder: str,
                                      hold: Hold, says: str) -> None:
    text = refusal(Reservation(ADDRESS, holds, EndpointId(endpoint)), holder, hold)
    assert text.startswith(says) or says in text
    assert bool(text) == bool(says)
