"""Tests how addresses are read as people type them, and how they are written."""

from __future__ import annotations

import pytest

from driver.cluster.addresses import in_order, parse_address, parse_member, place
from driver.cluster.model import address_of, client_url, peer_url
from driver.errors import InvalidArgument

DOOR = 23780


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "fd00::2:3"])
def test_urls(address: str) -> None:
    assert address_of(peer_url(address)) == address_of(client_url(address)) == address


def test_brackets_stand_where_a_port_follows() -> None:
    assert client_url("fd00::1") == "https://[fd00::1]:23790"
    assert peer_url("192.0.2.1") == "https://192.0.2.1:23800"
    assert place("fd00::1", DOOR) == "[fd00::1]:23780"


@pytest.mark.parametrize(("typed", "address"), [
    ("192.0.2.1", "192.0.2.1"), ("192.0.2.1:23780", "192.0.2.1"),
    ("fd00::1", "fd00::1"), ("[fd00::1]", "fd00::1"), ("[fd00::1]:23780", "fd00::1"),
    ("FD00:0::0001", "fd00::1"), ("[FD00:0::1]:23780", "fd00::1"),
    ("fd00::1:23780", "fd00::1"),  # five digits are a port
    ("fd00::1:2378", "fd00::1:2378")])  # four are not
def test_a_member(typed: str, address: str) -> None:
    assert parse_member(typed, DOOR) == address


@pytest.mark.parametrize("typed", [
    "", "host", "192.0.2.300", "192.0.2.1 ", "0x7f.1", "[", "[]", "[fd00::1", "fd00::1]",
    "[fd00::1]x", "[fd00::1]:", "[192.0.2.1", "192.0.2.1:", "\x1b[2J"])
def test_what_is_no_address(typed: str) -> None:
    for parse in (parse_address, lambda text: parse_member(text, DOOR)):
        with pytest.raises(InvalidArgument, match="is no IPv4 or IPv6 address") as caught:
            parse(typed)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(("typed", "why"), [
    ("fe80::1", "link-local"), ("[fe80::1%eth0]:23780", "link-local"), ("fd00::1%eth0", "a zone"),
    ("::ffff:192.0.2.1", "write 192.0.2.1"), ("::1", "no address of one host"),
    ("[fd00::1]:23790", "port 23780 only"), ("[fd00::1]:2378000", "port 23780 only"),
    ("fd00::1:23790", "port 23780 only"), ("192.0.2.1:80", "port 23780 only")])
def test_addresses_that_are_not_for_this(typed: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse_member(typed, DOOR)


def test_the_order() -> None:
    assert sorted(["fd00::10", "fd00::9", "192.0.2.10", "192.0.2.9"], key=in_order) == [
        "192.0.2.9", "192.0.2.10", "fd00::9", "fd00::10"]
