"""Tests that a release ends the hold it is meant for, also if what was recalled is outdated."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from driver.errors import StoreUnavailable
from driver.model import Hold, HoldKind, Reservation, SubnetUse
from driver.services.addresses.pool_ids import parse_pool_id
from driver.services.addresses.releases import AddressRelease, AddressReleases
from driver.services.ports.addresses import Versioned

NAME = parse_pool_id("slim-local/10.32.0.0/24")
assert NAME is not None
ADDRESS, HOST = IPv4Address("10.32.0.9"), "1" * 32
OLD, NEW = (Hold(HoldKind.DYNAMIC, request=each) for each in ("old", "new"))


class Book:
    """One reservation, as it is and as this host has seen it last."""

    def __init__(self, hold: Hold | None, recalled: Hold | None) -> None:
        self.now, self.recalled = (
            Versioned(Reservation(ADDRESS, {HOST: each}) if each else None, version)
            for each, version in ((hold, 2), (recalled, 2 if recalled == hold else 1)))
        self.lost = False  # the next write's answer

    def subnet(self, cidr: str, *, recall: bool = False) -> Versioned[SubnetUse]:
        return Versioned(None, 1)

    def reservation(self, cidr: str, address: IPv4Address, *,
                    recall: bool = False) -> Versioned[Reservation]:
        return self.recalled if recall else self.now

    def write_reservation(self, subnet: Versioned[SubnetUse], cidr: str,
                          before: Versioned[Reservation], after: Reservation, *,
                          subnet_after: SubnetUse | None = None) -> bool:
        if before.version != self.now.version:
            return False
        self.now = Versioned(None if after.free else after, before.version + 1)
        if self.lost:
            self.lost = False
            raise StoreUnavailable("the answer is lost")
        return True

    def held(self) -> Hold | None:
        return self.now.value.holds.get(HOST) if self.now.value else None


def release(book: Book, known: AddressRelease | None = None) -> AddressRelease:
    asked = known or AddressRelease(NAME, ADDRESS)
    AddressReleases(book).release(asked, HOST)  # type: ignore[arg-type]
    return asked


@pytest.mark.parametrize("recalled", [OLD, NEW, None])
def test_the_hold_of_now_ends(recalled: Hold | None) -> None:
    book = Book(NEW, recalled)
    assert release(book).hold == NEW
    assert book.held() is None


@pytest.mark.parametrize("recalled", [OLD, NEW])
def test_what_others_have_got_meanwhile_stays(recalled: Hold) -> None:
    """The first attempt has worked, but its answer was lost."""
    book = Book(OLD, OLD)
    book.lost = True
    asked = AddressRelease(NAME, ADDRESS)
    with pytest.raises(StoreUnavailable):
        release(book, asked)
    book.now, book.recalled = Book(NEW, recalled).now, Book(NEW, recalled).recalled
    release(book, asked)
    assert book.held() == NEW
