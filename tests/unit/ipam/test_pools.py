"""Tests driver/ipam/pools.py: parsing, overlap, and the next automatic pool."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.errors import InvalidArgument
from driver.ipam.pools import (
    POOL6_PREFIXLEN,
    POOL_PREFIXLEN,
    SUPERNET,
    SUPERNET6,
    choose_pool,
    contains,
    overlapping,
    parse_pool,
    parse_supernet,
)


def test_network_form() -> None:
    pool = parse_pool("10.32.5.7/16", "10.32.5.9/24", v6=False)
    assert (str(pool.subnet), str(pool.sub_pool)) == ("10.32.0.0/16", "10.32.5.0/24")


@pytest.mark.parametrize("v6", [True, False])
def test_v6_pool_whatever_the_flag(v6: bool) -> None:
    assert str(parse_pool("fd00:1::5/64", "", v6=v6).subnet) == "fd00:1::/64"


@pytest.mark.parametrize(("pool", "sub_pool", "v6", "says"), [
    ("", "10.32.1.0/24", False, "without a pool"),
    ("10.32.0.0/16", "10.33.0.0/24", False, "not inside"),
    ("10.32.0.0/16", "10.0.0.0/8", False, "not inside"),
    ("10.32.0.0/16", "fd00::/64", False, "not inside"),
    ("10.32.0.0/16", "", True, "is IPv4"),
    ("10.32.0.0", "", False, "prefix length"),
    ("10.32.0.0/33", "", False, "33"),
    ("10.32.0.1/32", "", False, "too small"),
    ("fd00::1/128", "", True, "too small"),
    ("0.0.0.0/0", "", False, "unicast"),
    ("224.0.0.0/8", "", False, "unicast"),
    ("127.0.0.0/8", "", False, "unicast"),
    ("fe80::/64", "", True, "unicast"),
    ("nonsense", "", False, "want ADDRESS/LENGTH"),
    ("10.32.0.0/16", "x", False, "sub-pool 'x'"),
])
def test_refused_with_a_reason(pool: str, sub_pool: str, v6: bool, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse_pool(pool, sub_pool, v6=v6)


@pytest.mark.parametrize(("block", "prefixlen"), [("10.0.0.0/16", 8), ("10.0.0.0/16", 31)])
def test_supernet_of_unfit_size(block: str, prefixlen: int) -> None:
    with pytest.raises(InvalidArgument, match="do not fit"):
        parse_supernet(block, prefixlen)


def test_defaults() -> None:
    assert parse_supernet(SUPERNET, POOL_PREFIXLEN).count == 2048
    assert parse_supernet(SUPERNET6, POOL6_PREFIXLEN).count == 65536


networks = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(10 << 24, (10 << 24) + (1 << 20) - 1), st.integers(8, 30))


@given(st.lists(networks, max_size=40), st.integers(16, 26))
def test_chosen_pool_is_the_lowest_that_avoids_everything(
        avoid: list[IPv4Network], prefixlen: int) -> None:
    supernet = parse_supernet("10.0.0.0/14", prefixlen)
    chosen = choose_pool([supernet], avoid)
    candidates = supernet.block.subnets(new_prefix=prefixlen)
    assert chosen == next((c for c in candidates if overlapping(c, avoid) is None), None)


def test_supernets_in_turn_until_none_is_left() -> None:
    supernets = [parse_supernet("10.0.0.0/29", 30), parse_supernet("10.9.0.0/30", 30)]
    taken = [ip_network("fd00::/64")]
    for expected in ("10.0.0.0/30", "10.0.0.4/30", "10.9.0.0/30"):
        chosen = choose_pool(supernets, taken)
        assert str(chosen) == expected
        assert chosen is not None
        taken.append(chosen)
    assert choose_pool(supernets, taken) is None
    assert choose_pool(supernets, [ip_network("0.0.0.0/0")]) is None


def test_choosing_is_quick_in_a_huge_supernet() -> None:
    supernet = parse_supernet("fd00::/8", 120)
    assert str(choose_pool([supernet], [ip_network("fd00::/9")])) == "fd80::/120"


@given(networks, networks)
def test_contains_is_about_every_address(outer: IPv4Network, inner: IPv4Network) -> None:
    assert contains(outer, inner) == (
        inner.network_address in outer and inner.broadcast_address in outer)
    assert not contains(outer, ip_network("fd00::/64"))
