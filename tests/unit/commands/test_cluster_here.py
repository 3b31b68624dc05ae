"""Tests this host's address for a cluster, IPv4 or IPv6."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from driver.commands.cluster import here
from driver.errors import InvalidArgument
from driver.link.underlay.device import Underlay
from driver.settings import Settings

FOUND = Underlay("eth0", 2, IPv4Address("192.0.2.1"), 1500)


def test_it_is_the_underlays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "find_underlay", lambda _wanted: FOUND)
    assert here.own_address(Settings(), "") == "192.0.2.1"


def test_over_ipv6_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "find_underlay", lambda _wanted: replace(
        FOUND, address=IPv6Address("2001:db8::1")))
    assert here.own_address(Settings(), "") == "2001:db8::1"
    assert here.own_address(Settings(), "192.0.2.7") == "192.0.2.7"
    assert here.own_address(Settings(), "[2001:DB8::7]") == "2001:db8::7"
    with pytest.raises(InvalidArgument, match="is no IPv4 or IPv6 address"):
        here.own_address(Settings(), "[2001:db8::1]:23780")
