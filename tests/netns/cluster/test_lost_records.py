"""Tests lost and spoilt records of endpoints in etcd, with two hosts and real maps.

Hosts must keep what they knew of each other: the open connection goes on, and new ones take the
host path.  What a host says is gone must go at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from driver.store.format import keys, records
from driver.store.kv.protocol import Entry
from tests.netns.cluster.etcd_world import LONG_S, Box, World, directory
from tests.support.run.wait import wait_until
from tests.support.world.etcd import live
from tests.support.world.served import Host

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def world(running: World) -> World:
    running.wait_converged()
    return running


def shared(world: World, box: Box) -> Entry:
    return next(entry for entry in live(world.cluster.entries(keys.ENDPOINTS))
                if entry.key.endswith(box.endpoint))


def says(host: Host, what: str) -> Callable[[], bool]:
    return lambda: what in host.status()["directory"]


@contextmanager
def nothing_is_cut(world: World) -> Iterator[None]:
    """Assert that the block changes no map, and that connections work after it."""
    known = [directory(host) for host in world.hosts]
    kept = live(world.cluster.entries(keys.ENDPOINTS))
    try:
        yield
    except BaseException:
        for entry in kept:  # put right for the next tests
            world.cluster.etcdctl("put", entry.key, entry.value.decode())
        raise
    assert [directory(host) for host in world.hosts] == known
    world.assert_data_path()


SPOILT = {"garbage": ("slim", "2 records cannot be read"),
          "newer": ('{"schema":2,"id":"x"}', "2 records cannot be read")}


def test_single_records_are_deleted(world: World) -> None:
    """Their hosts enter them again by themselves."""
    entries = [shared(world, box) for box in world.boxes]
    with nothing_is_cut(world):
        for entry in entries:
            world.cluster.etcdctl("del", entry.key)
        world.assert_data_path()
        wait_until(lambda: {entry.key for entry in entries} <= {
            entry.key for entry in live(world.cluster.entries(keys.ENDPOINTS))}, LONG_S,
            "they are on record again")
        for host in world.hosts:
            wait_until(lambda h=host: h.status()["directory"] == "2 endpoints", LONG_S,  # type: ignore[misc]
                       "all is well again")


@pytest.mark.parametrize("how", [*SPOILT, "swapped"])
def test_single_records(world: World, how: str) -> None:
    entries = [shared(world, box) for box in world.boxes]
    value, shown = SPOILT.get(how, ("", "2 records cannot be read"))
    with nothing_is_cut(world):
        for number, entry in enumerate(entries):
            if how == "swapped":
                value = entries[1 - number].value.decode()
            world.cluster.etcdctl(*(("put", entry.key, value) if value else ("del", entry.key)))
        for host in world.hosts:
            wait_until(says(host, shown), LONG_S, "both hosts miss them")
        world.assert_data_path()
        for entry in entries:
            world.cluster.etcdctl("put", entry.key, entry.value.decode())
        for host in world.hosts:
            wait_until(lambda h=host: h.status()["directory"] == "2 endpoints", LONG_S,  # type: ignore[misc]
                       "all is well again")


def test_a_driver_that_starts_beside_lost_records(world: World) -> None:
    entry = shared(world, world.boxes[1])
    with nothing_is_cut(world):
        world.hosts[1].end_driver(9)  # its host cannot enter it again
        try:
            for value, shown in (("slim", "1 records cannot be read"), ("", "1 in doubt")):
                world.hosts[0].end_driver(9)
                world.cluster.etcdctl(*(("put", entry.key, value) if value
                                        else ("del", entry.key)))
                start(world.hosts[0])
                wait_until(says(world.hosts[0], shown), LONG_S, "it misses it")
                world.assert_data_path()
            wait_until(lambda: "etcd lacks 1 endpoints of host" in world.hosts[0].log(), LONG_S,
                       "it says so")
        finally:
            start(world.hosts[1])
        wait_until(lambda: world.hosts[0].status()["directory"] == "2 endpoints", LONG_S,
                   "all is well again")


def test_everything_is_deleted(world: World) -> None:
    """All hosts enter again what they have by themselves."""
    kept = {entry.key for entry in live(world.cluster.entries(keys.ROOT))
            if not entry.key.endswith(("/fence", "/question"))  # written only when needed
            and not entry.key.startswith(keys.ANSWERS)}
    with nothing_is_cut(world):
        world.cluster.etcdctl("del", "--prefix", keys.ROOT)
        world.assert_data_path()
        world.compact()  # so that watchers cannot catch up, and list everything
        world.assert_data_path()
        wait_until(lambda: kept <= {entry.key for entry in world.cluster.entries(keys.ROOT)},
                   LONG_S, "all is on record again")
        for host in world.hosts:
            wait_until(lambda h=host: h.status()["directory"] == "2 endpoints", LONG_S,  # type: ignore[misc]
                       "all is well again")


def test_what_is_removed_properly_goes_at_once(world: World) -> None:
    box = world.attach(world.hosts[1])
    wait_until(lambda: knows(world.hosts[0], box), LONG_S, "the other host knows it")
    world.detach(box)
    wait_until(lambda: not knows(world.hosts[0], box), 10, "and not any more")
    assert world.hosts[0].status()["directory"] == "2 endpoints"
    # A host that only lists, while the tombstone exists, learns of the removal, too.
    other = world.attach(world.hosts[1])
    wait_until(lambda: knows(world.hosts[0], other), LONG_S, "the other host knows it")
    world.hosts[0].end_driver(9)
    world.detach(other)
    start(world.hosts[0])
    wait_until(lambda: not knows(world.hosts[0], other), LONG_S, "and not any more")
    assert world.hosts[0].status()["directory"] == "2 endpoints"


def test_who_missed_a_removal_asks_its_host(world: World) -> None:
    box = world.attach(world.hosts[1])
    wait_until(lambda: knows(world.hosts[0], box), LONG_S, "the other host knows it")
    world.hosts[0].end_driver(9)
    world.detach(box)
    # If etcd did not confirm it, it is done once more: that must not be after the next lines.
    wait_until(lambda: world.hosts[1].status()["outstanding"].startswith("nothing"), LONG_S,
               "the removal is on record")
    stone = next(entry for entry in world.cluster.entries(keys.ENDPOINTS)
                 if entry.key.endswith(box.endpoint))
    assert records.decode(stone, records.left).id == box.endpoint
    world.cluster.etcdctl("del", stone.key)  # as after ten minutes
    start(world.hosts[0])
    wait_until(says(world.hosts[0], "1 in doubt"), LONG_S, "its entry has no record")
    assert knows(world.hosts[0], box)
    wait_until(lambda: not knows(world.hosts[0], box), LONG_S, "its host has said so")
    assert len(world.cluster.entries(keys.ANSWERS)) == 1
    wait_until(lambda: world.hosts[0].status()["directory"] == "2 endpoints", LONG_S,
               "nothing is in doubt")


def test_an_address_that_is_given_anew_ends_a_doubt(world: World) -> None:
    """Older drivers delete records without a tombstone, and answer no questions."""
    first = world.attach(world.hosts[1])
    wait_until(lambda: knows(world.hosts[0], first), LONG_S, "the other host knows it")
    entry = shared(world, first)
    world.hosts[1].end_driver(9)
    world.cluster.etcdctl("del", entry.key)
    wait_until(says(world.hosts[0], "1 in doubt"), LONG_S, "its record is missed")
    fields = json.loads(entry.value)
    anew = {**fields, "id": "f" * 64, "mac": "02aabbccddee", "port": fields["port"] + 7}
    key = entry.key.replace(first.endpoint, "f" * 64)
    world.cluster.etcdctl("put", key, json.dumps(anew))
    wait_until(lambda: ("02aabbccddee", fields["port"] + 7) in {
        (mac.hex(), port) for _, _, _, port, mac in directory(world.hosts[0])}, LONG_S,  # type: ignore[attr-defined]
        "the new one is there")
    assert world.hosts[0].status()["directory"] == "3 endpoints"
    world.cluster.etcdctl("put", key, json.dumps(
        {"schema": 1, "id": "f" * 64, "left": {**anew, "id": "f" * 64}}))
    wait_until(lambda: not knows(world.hosts[0], first), LONG_S, "and gone")
    world.cluster.etcdctl("del", key)
    start(world.hosts[1])
    wait_until(lambda: knows(world.hosts[0], first), LONG_S, "its host has entered it again")
    world.detach(first)


def start(host: Host) -> None:
    host.launch_driver()
    wait_until(host.answers, LONG_S, "the driver answers")


def knows(host: Host, box: Box) -> bool:
    return IPv4Address(box.ip) in {address for _, address, *_ in directory(host)}
