"""Tests an endpoint's names on their way from its host's record to another host's table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.model import Endpoint
from driver.services.names.table import NameTable
from driver.store.endpoints import EtcdEndpoints
from driver.store.feeds.directory import EtcdDirectory
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys
from driver.store.kv.protocol import Delete
from tests.contract.records.test_store import HOST_A, Heard, Kv
from tests.contract.records.test_tombstones import Host
from tests.support.run.wait import wait_until

WAIT_S = 30


class Follower:
    """Another host's table of names."""

    def __init__(self, host: Host, feeds: Feeds, kv: Kv) -> None:
        self.vni = host.vni
        self.heard = Heard()
        self.table = NameTable(self.heard, lambda _vni, each: each in self.heard.endpoints)
        self.directory = EtcdDirectory(feeds, kv)
        self.directory.follow(host.vni, self.table)

    def finds(self, name: str, *wanted: Endpoint) -> None:
        addresses = {each.address.ip for each in wanted if each.address is not None}
        wait_until(lambda: {each.address for each in self.table.find(self.vni, name)} == addresses,
                   WAIT_S, f"{name} to be {addresses}")


@pytest.fixture
def host(kv: Kv) -> Host:
    return Host(kv)


def named(host: Host, endpoint: Endpoint, *names: str) -> Endpoint:
    """Change an endpoint's names on record."""
    changed = replace(endpoint, names=names)
    host.endpoints.replace(changed)
    return changed


def test_names_come_change_and_go_with_their_endpoint(host: Host, kv: Kv, feeds: Feeds) -> None:
    follower = Follower(host, feeds, kv)
    one, two = host.made(), host.made(2, "10.32.0.3/16")
    one, two = named(host, one, "web", "www"), named(host, two, "web")
    follower.finds("web", one, two)
    follower.finds("www", one)
    one = named(host, one, "uno")
    follower.finds("uno", one)
    follower.finds("web", two)
    follower.finds("www")
    host.endpoints.delete(two.id)
    follower.finds("web")
    follower.finds("uno", one)
    follower.directory.close()


def test_who_follows_later_finds_the_same(host: Host, kv: Kv, feeds: Feeds) -> None:
    one = named(host, host.made(), "web")
    follower = Follower(host, feeds, kv)
    follower.finds("web", one)
    follower.directory.close()
    assert EtcdEndpoints(kv, HOST_A, host.networks).list() == [one], "the host itself, too"


def test_names_stay_with_what_else_changes(host: Host, kv: Kv) -> None:
    one = named(host, host.made(), "web")
    host.endpoints.replace(replace(one, offered=False))
    found = host.endpoints.get(one.id)
    assert found is not None
    assert found.names == ("web",)


def test_what_is_missing_keeps_its_names(host: Host, kv: Kv, feeds: Feeds) -> None:
    """Nobody has said that it has gone."""
    follower = Follower(host, feeds, kv)
    one = named(host, host.made(), "web")
    follower.finds("web", one)
    kv.commit([], [Delete(keys.endpoint(host.vni, one.id))])
    wait_until(lambda: follower.heard.lost, WAIT_S, "the loss")
    follower.finds("web", one)
    follower.directory.close()
