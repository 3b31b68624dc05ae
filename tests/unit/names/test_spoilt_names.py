"""Tests spoilt data in the names of an endpoint's record: by a list, by a change, and mended again.

What is known stays known; the other endpoints' names go on; a record that can be read has those
names that can be asked for.  The decoder, the table, the resolver and the answers are real.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import dns.exception
import dns.message
import pytest

from driver.dns.messages import read_question, write_answer
from driver.model import Endpoint
from driver.services.names.resolver import Resolver
from driver.services.names.table import NameTable
from driver.store.feeds.directory import EtcdDirectory
from driver.store.feeds.feeds import Feeds
from driver.store.format import keys, records
from driver.store.kv.protocol import Change, Entry
from tests.support.fakes.kv import FakeKeyValue
from tests.unit.names.test_table import Directory
from tests.unit.names.world import NETWORK, VNI, endpoint, view

KEY = "/var/run/docker/netns/k"
WEB, DB = endpoint(2, "web", "www"), endpoint(3, "db")

UNREADABLE: dict[str, object] = {
    "a text": "web", "nothing": None, "a number": 7, "a flag": True, "a table": {"web": 1}}
READABLE: dict[str, list[Any]] = {
    "numbers in it": ["web", 7], "nothing in it": ["web", None], "lists in it": ["web", ["web"]],
    "an empty name": ["web", ""], "a long name": ["web", "w" * 254],
    "a huge name": ["web", "w" * 1_000_000],
    "deep lists": ["web", json.loads("[" * 400 + "]" * 400)],
    "none": [], "twice": ["web", "web", "web"], "upper case": ["WEB", "web"],
    "control characters": ["web", "\x1b[2J\x07", "a\nb", "\0"],
    "beyond ASCII": ["web", "\u00e9", "\u202egpj", "\U0001f433" * 253, "\udc80"],
    "spaces and dots": ["web", " ", ".", "a..b", "a b", "\t"], "escapes": ["web", "\\000", "\\."],
    "long parts": ["web", "w" * 253, "w" * 64], "many": ["web", *(f"n{n}" for n in range(10_000))],
    "the first cannot be written": ["\\300", "web"], "the first is too long": ["w" * 64, "web"]}


def value(of: Endpoint, names: object) -> bytes:
    return records.encode({**records.shared_endpoint_fields(of), "names": names})


class Etcd:
    """What the driver has heard from etcd of one network."""

    def __init__(self) -> None:
        self.known = Directory()
        self.table: NameTable = self.known.table
        self.resolver = Resolver(self.table, lambda: view(networks={NETWORK: "app"}))
        self.resolver.enter(KEY, [DB])
        self.records = {keys.endpoint(each.vni, each.id): value(each, list(each.names))
                        for each in (WEB, DB)}
        self._revision = 1
        self._listener: Any = None
        EtcdDirectory(cast(Feeds, self), FakeKeyValue()).follow(VNI, self.table)

    def follow(self, _prefix: str, listener: Any) -> None:
        """The method of Feeds."""
        self._listener = listener

    def tell_all(self) -> None:
        self._listener.listed([Entry(key, text, 1) for key, text in self.records.items()], 1)

    def write(self, text: bytes, of: Endpoint = WEB) -> None:
        """Change a record, and say so."""
        self._revision += 1
        key = keys.endpoint(of.vni, of.id)
        self.records[key] = text
        self._listener.changed([Change(key, text, self._revision)])

    def asked(self, name: str, kind: str = "A") -> list[str] | None:
        """Return what is answered; None: Docker's name server is asked."""
        query = dns.message.make_query(name, kind).to_wire()
        question = read_question(query)
        reply = self.resolver.resolve(KEY, question) if question is not None else None
        answer = write_answer(query, reply, udp=True) if reply is not None else None
        return None if answer is None else [
            str(each) for rrset in dns.message.from_wire(answer).answer for each in rrset]

    def others_go_on(self) -> None:
        assert self.asked("db") == ["10.32.0.3"]
        assert self.asked("3.0.32.10.in-addr.arpa", "PTR") == ["db.app."]
        assert {VNI} == {vni for vni, _ in self.known.known}
        assert (VNI, DB.id) in self.known.known


def spoil(etcd: Etcd, text: bytes, when: str) -> None:
    if when == "by a change":
        etcd.tell_all()
        etcd.write(text)
    else:
        if when == "by a list":
            etcd.tell_all()
        etcd.records[keys.endpoint(WEB.vni, WEB.id)] = text
        etcd.tell_all()


WHENS: Sequence[str] = ("by a change", "by a list", "from the start")


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("kind", [*UNREADABLE, "a newer schema", "no end"])
def test_what_cannot_be_read(kind: str, when: str) -> None:
    etcd = Etcd()
    if kind == "a newer schema":
        text = json.dumps({"schema": records.SCHEMA + 1, "write": "0", "names": ["x"]}).encode()
    elif kind == "no end":
        text = value(WEB, ["web"])[:-10]
    else:
        text = value(WEB, UNREADABLE[kind])
    spoil(etcd, text, when)
    etcd.others_go_on()
    if when != "from the start":
        assert (VNI, WEB.id) in etcd.known.known, "it may run, and stays reachable"
        assert etcd.asked("web") == etcd.asked("www") == ["10.32.0.2"], "as known before"
    etcd.write(value(WEB, ["web", "later"]))
    assert etcd.asked("later") == ["10.32.0.2"]
    assert etcd.asked("www") is None
    etcd.others_go_on()


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("kind", READABLE)
def test_what_can_be_read(kind: str, when: str) -> None:
    etcd = Etcd()
    names = READABLE[kind]
    spoil(etcd, value(WEB, names), when)
    etcd.others_go_on()
    assert (VNI, WEB.id) in etcd.known.known
    assert etcd.asked("web") == (["10.32.0.2"] if "web" in names else None)
    etcd.asked("2.0.32.10.in-addr.arpa", "PTR")
    for name in filter(lambda each: isinstance(each, str), names[:100]):
        try:
            etcd.asked(name)
        except (dns.exception.DNSException, ValueError):
            """Nobody can ask for that."""
    etcd.write(value(WEB, ["web", "later"]))
    assert etcd.asked("later") == ["10.32.0.2"]
    assert [each.names for each in etcd.table.all(VNI)] == [("db",), ("web", "later")]
    etcd.others_go_on()


@pytest.mark.parametrize("kind", [kind for kind in READABLE if kind not in ("none", "upper case")])
def test_what_nobody_can_ask_for_is_not_kept(kind: str) -> None:
    """A driver that publishes names leaves it out, and at most 64 names are one container's."""
    etcd = Etcd()
    spoil(etcd, value(WEB, READABLE[kind]), "by a list")
    (named,) = [each for each in etcd.table.all(VNI) if str(each.address) == "10.32.0.2"]
    assert len(named.names) <= 64
    assert all(name.isascii() and name.isprintable() and " " not in name for name in named.names)
    assert etcd.asked("2.0.32.10.in-addr.arpa", "PTR") is not None


def test_a_name_that_fails_costs_its_endpoint_nothing_else() -> None:
    """A host that has not known the endpoint before must be able to reach it."""
    etcd = Etcd()
    spoil(etcd, value(WEB, ["web", 7]), "from the start")
    assert (VNI, WEB.id) in etcd.known.known
    assert etcd.asked("web") == ["10.32.0.2"]
