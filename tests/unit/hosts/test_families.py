"""Tests hosts whose underlay is of the other family: they are named once, and never judged."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from driver.doctor.driver_says import OUT_OF_REACH
from driver.model import Host, HostId
from driver.services.hosts.families import Families
from driver.services.hosts.watch import HostWatch
from driver.services.ports import Presence
from tests.unit.hosts.test_host_watch import PEER, World

SIX = Host(HostId("6" * 32), "six", IPv6Address("2001:db8::6"))
FOUR = Host(HostId("4" * 32), "four", IPv4Address("192.0.2.4"))


def live(*hosts: Host) -> dict[HostId, Host]:
    return {host.id: host for host in hosts}


def test_all_of_one_family() -> None:
    families = Families(IPv6Address("2001:db8::1"))
    families.hosts_changed(live(SIX))
    assert families.describe() == ""


def test_one_of_the_other_family_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    families = Families(IPv6Address("2001:db8::1"))
    families.hosts_changed(live(SIX, FOUR))
    families.hosts_changed(live(SIX, FOUR))
    assert families.describe() == (
        "1 out of reach, whose underlay is IPv4 and this host's IPv6 (four (192.0.2.4))")
    assert OUT_OF_REACH in families.describe()
    assert len(caplog.records) == 1
    assert "host four (192.0.2.4) has an underlay of IPv4, this host one of IPv6" in caplog.text
    families.hosts_changed(live(SIX, replace(FOUR, underlay=IPv6Address("2001:db8::4"))))
    assert families.describe() == ""
    assert "of this host's family now" in caplog.records[-1].message


def test_its_absence_is_left_to_others() -> None:
    """From here there is no route to it, which proves nothing."""
    world = World()
    mine = Families(IPv6Address("2001:db8::1"))
    world.watch = HostWatch(me=HostId("a" * 32), absences=world, prober=world, refuse=world.refuse,
                            remove=world.removed.append, reaches=mine.reaches,
                            clock=lambda: world.now_s)
    world.presence = dict.fromkeys((PEER.underlay,), Presence.ABSENT)
    world.live()
    world.run(20)
    assert world.asked == []
    assert world.refused == set()
    assert world.notes == []
    assert world.watch.describe() == "0 registered, 0 absent, 0 gone"
