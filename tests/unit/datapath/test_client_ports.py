"""Tests which source ports are left beside a port range, and when they are too few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.client_ports import (
    ENOUGH,
    ClientPorts,
    Ports,
    client_ports,
    format_ports,
    parse_ports,
    unreserved,
)
from driver.errors import SettingsError

USUAL = (32768, 60999)


def given_out(ports: ClientPorts) -> set[int]:
    """Return every port that kernel/claims.c's client_port() can choose."""
    chosen = (ports.first + n for n in range(ports.count))
    return {port if port < ports.gap_first else port + ports.gap for port in chosen}


@pytest.mark.parametrize(("endpoints", "ephemeral", "reserved", "text"), [
    ((61000, 65535), USUAL, "", "32768-60999"),
    ((20000, 30000), USUAL, "", "32768-60999"),
    ((32768, 40000), USUAL, "", "40001-60999"),
    ((50000, 60999), USUAL, "", "32768-49999"),
    ((40000, 50000), USUAL, "", "32768-39999,50001-60999"),
    # Reserved for others: the two widest spans.
    ((61000, 65535), USUAL, "35357", "32768-35356,35358-60999"),
    ((61000, 65535), USUAL, "40000,50000,50002", "40001-49999,50003-60999"),
    ((40000, 50000), USUAL, "40000-50000", "32768-39999,50001-60999"),
    # A host with fewer ports for clients: its firewall may know only those.
    ((61000, 65535), (49152, 65535), "", "49152-60999"),
    ((61000, 65535), (20000, 29999), "", "20000-29999"),
    # A host with more ports for clients: those that programs in containers expect come first.
    ((61000, 65535), (1024, 65535), "", "32768-60999"),
    ((32000, 60999), (1024, 65535), "", "1024-31999,61000-65535"),
    ((61000, 65535), (80, 32767), "", "1024-32767"),
])
def test_what_is_left_on_either_side(endpoints: Ports, ephemeral: Ports, reserved: str, text: str
                                     ) -> None:
    chosen = client_ports(endpoints, ephemeral, parse_ports(reserved))
    assert str(chosen) == text
    assert given_out(chosen) == parse_ports(text)
    first, last = chosen.widest()
    assert f"{first}-{last}" in text.split(",")
    assert 2 * (last - first + 1) >= chosen.count


@pytest.mark.parametrize(("endpoints", "ephemeral", "reserved", "left"), [
    ((1024, 65535), USUAL, "", 0), ((32768, 60999), USUAL, "", 0),
    ((33791, 60999), USUAL, "", ENOUGH - 1), ((61000, 65535), (61000, 65535), "", 0),
    ((61000, 65535), USUAL, "32768-60900", 99)])
def test_too_few_are_refused(endpoints: Ports, ephemeral: Ports, reserved: str, left: int) -> None:
    first, last = endpoints
    with pytest.raises(SettingsError, match=f"--port-range={first}-{last} leaves {left} source"):
        client_ports(endpoints, ephemeral, parse_ports(reserved))


def test_just_enough() -> None:
    assert client_ports((33792, 60999), USUAL, ()) == ClientPorts(32768, ENOUGH)


ports = st.tuples(st.integers(1024, 65535), st.integers(1024, 65535)).map(
    lambda two: (min(two), max(two)))


@given(ports, ports, st.lists(ports, max_size=3))
def test_never_one_that_is_another_ones(endpoints: Ports, ephemeral: Ports, reserved: list[Ports]
                                        ) -> None:
    others = {port for first, last in reserved for port in range(first, last + 1)}
    try:
        chosen = given_out(client_ports(endpoints, ephemeral, others))
    except SettingsError:
        return
    assert len(chosen) >= ENOUGH
    assert not chosen & others
    assert not any(endpoints[0] <= port <= endpoints[1] for port in chosen)
    assert min(chosen) >= ephemeral[0]
    assert max(chosen) <= ephemeral[1]


def test_the_hosts_own_clients() -> None:
    assert unreserved((61000, 65535), USUAL, ()) == ""
    assert unreserved((50000, 60999), USUAL, range(40000, 61000)) == ""
    # The advised list includes what others have reserved.
    said = unreserved((32768, 40000), USUAL, {8080, *range(32768, 33000)})
    assert "ip_local_reserved_ports=8080,32768-40000, or" in said


@given(st.sets(st.integers(1, 65535), max_size=50))
def test_lists_of_ports(some: set[int]) -> None:
    assert parse_ports(format_ports(some)) == some


def test_a_list_as_the_kernel_writes_it() -> None:
    assert parse_ports("8080,61000-61002\n") == {8080, 61000, 61001, 61002}
    assert parse_ports("\n") == set()
    assert format_ports({61002, 61001, 8080}) == "8080,61001-61002"
