"""Tests the maps `withheld` and `notes`: what programs write, and how the driver settles it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from driver.datapath.tables import withheld as module
from driver.datapath.tables.withheld import NOTE_KEYS, NOTE_RULES, WithheldMaps
from driver.services.ports import Why
from tests.netns.talk import run
from tests.support.world.machines import Container, Machine

MD5 = """
    key = struct.pack("=H2s4s120sBBHI80s", socket.AF_INET, b"", socket.inet_aton("10.32.0.9"), b"",
                      0, 0, 3, 0, b"key")
    socket.socket().setsockopt(socket.IPPROTO_TCP, 14, key)
"""


@pytest.fixture
def container(machines: list[Machine]) -> Container:
    return machines[0].container("10.32.0.2/16")


@pytest.fixture
def maps(container: Container) -> Iterator[WithheldMaps]:
    loaded = container.machine.loaded
    yield WithheldMaps(loaded)
    for name in ("withheld", "notes"):
        loaded.table(name).clear()


def test_every_reason_has_its_number(
        maps: WithheldMaps, container: Container, machines: list[Machine]) -> None:
    there = machines[1].container("10.32.0.3/16")
    cookie = container.netns.cookie
    for why in Why:
        maps.withhold(cookie, why)
        with container.machine.counting() as grown:
            assert run(container, "print(error_of(lambda: connected(sys.argv[1], 80)))",
                       there.address) == "ECONNREFUSED"
        assert list(maps.withheld()) == [cookie]
        assert grown[why] == 1, grown
    maps.release(cookie)
    maps.release(cookie)
    assert not maps.withheld()


def test_what_programs_do_is_noted_and_settled(maps: WithheldMaps, container: Container) -> None:
    cookie = container.netns.cookie
    container.run("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    assert maps.notes() == {cookie: {Why.OWN_RULES}}
    assert list(maps.withheld()) == [cookie]
    maps.settle_rules(cookie)
    assert maps.notes() == {}
    maps.settle_rules(cookie)
    container.run("iptables-legacy", "-F", "INPUT")
    run(container, MD5)
    assert maps.notes_of(cookie) == {Why.OWN_RULES, Why.KEYS}
    maps.settle_rules(cookie)
    assert maps.notes_of(cookie) == {Why.KEYS}


def test_what_the_driver_finds_is_noted_beside_it(maps: WithheldMaps, container: Container,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver must not undo what a program notes at that moment."""
    cookie, take = container.netns.cookie, module.bpf.take

    def take_and_be_overtaken(*of: object) -> object:
        taken = take(*of)  # type: ignore[arg-type]
        monkeypatch.setattr(module.bpf, "take", take)
        run(container, MD5)
        return taken

    monkeypatch.setattr(module.bpf, "take", take_and_be_overtaken)
    maps.note_listeners(cookie, bound=True, keyed=False)
    assert maps.notes_of(cookie) == {Why.KEYS, Why.BOUND_LISTENER}
    assert list(maps.withheld()) == [cookie]


def test_the_oldest_notes_of_strangers_go(maps: WithheldMaps, container: Container,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_NOTES", 2)
    table = container.machine.loaded.table("notes")
    for age, cookie in enumerate((11, 12, 13, 14)):
        leaf = table.Leaf()
        leaf.since_ns, leaf.what = 100 - age, NOTE_KEYS | NOTE_RULES
        table[table.Key(cookie)] = leaf
    maps.forget_notes({14})
    assert set(maps.notes()) == {11, 12, 14}
