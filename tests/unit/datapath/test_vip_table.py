"""Tests lists of vips' tasks: a list that a program may be reading must not be removed."""

from __future__ import annotations

from collections import namedtuple
from ipaddress import IPv4Address
from typing import Any

import pytest

from driver.datapath.loading import bpf
from driver.datapath.loading.load import u32_be
from driver.datapath.tables import vip_table
from driver.datapath.tables.vip_table import VipTable
from driver.model import Vni

VIP = IPv4Address("10.32.0.100")
ONE, TWO = (IPv4Address(f"10.32.0.{n}") for n in (2, 3))
VNI = Vni(7)


class Table(dict[Any, Any]):
    """A map as BCC shows it."""

    def __init__(self, key: type, leaf: type) -> None:
        super().__init__()
        self.Key, self.Leaf = key, leaf


class Maps:
    """The loaded maps; a program reads them in two steps, as in kernel/services.c."""

    def __init__(self) -> None:
        self.services = Table(namedtuple("Address", "vni addr_be"),
                              namedtuple("Service", "generation count"))
        self.backends = Table(namedtuple("Backend", "vni service_be generation index"), int)

    def table(self, name: str) -> Table:
        return getattr(self, name)  # type: ignore[no-any-return]

    def name(self) -> Any:
        return self.services[self.services.Key(VNI, u32_be(VIP))]

    def choose(self, service: Any) -> list[int]:
        return [self.backends[self.backends.Key(VNI, u32_be(VIP), service.generation, index)]
                for index in range(service.count)]


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Maps:
    monkeypatch.setattr(bpf, "entries", lambda table: table.items())
    return Maps()


def test_a_program_that_has_read_the_name_finds_the_list(maps: Maps) -> None:
    now_s = [0.0]
    table = VipTable(maps, lambda: now_s[0])  # type: ignore[arg-type]
    table.put(VNI, VIP, [ONE])
    read = maps.name()
    table.put(VNI, VIP, [ONE, TWO])
    assert maps.choose(read) == [u32_be(ONE)]
    assert maps.choose(maps.name()) == [u32_be(ONE), u32_be(TWO)]
    read = maps.name()
    table.delete(VNI, VIP)
    assert maps.choose(read) == [u32_be(ONE), u32_be(TWO)]

    now_s[0] += vip_table.KEPT_S / 2
    table.put(VNI, VIP, [TWO])  # the vip is back, so its list must stay
    assert maps.choose(read) == [u32_be(ONE), u32_be(TWO)]
    now_s[0] += vip_table.KEPT_S / 2
    table.sweep()
    assert maps.choose(maps.name()) == [u32_be(TWO)]
    assert len(maps.backends) == 1

    table.delete(VNI, VIP)
    now_s[0] += vip_table.KEPT_S
    table.sweep()
    assert not maps.backends
    table.put(VNI, VIP, [ONE])
    assert maps.name().generation == 1, "what is gone is forgotten: nothing grows for ever"
