"""Tests that docs/cluster-state.md has every key and field that `slim cluster` writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from driver.cluster.model import ClusterHost, Role
from driver.cluster.records import ClusterConfig, ClusterRecords, JoinSecret
from driver.errors import UnsupportedRecord
from driver.store.format import keys
from driver.store.kv.protocol import Put
from tests.support.fakes.kv import FakeKeyValue

HOST = ClusterHost("a" * 32, "one", "192.0.2.1", 1.0)


def write_all(kv: FakeKeyValue) -> None:
    records = ClusterRecords(kv)
    records.put_config(ClusterConfig("b" * 32, "blue"))
    records.change_host(HOST.id, lambda _: HOST)
    records.put_secret(JoinSecret(b"x" * 16, 2.0, ("old",)))
    records.tell_alive(HOST.id, kv.lease(10).id)


def test_every_key_and_field_has_its_line(project: Path) -> None:
    kv = FakeKeyValue()
    write_all(kv)
    text = (project / "docs/cluster-state.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines()
            if line.startswith("| `")}
    found = {}
    for entry in kv.range(keys.CLUSTER_ROOT).entries:
        name = entry.key.removeprefix(keys.CLUSTER_ROOT).replace(HOST.id, "<host>")
        found[name] = set(json.loads(entry.value or b"{}")) - {"schema", "write"}
    assert found.keys() == rows.keys()
    for name, fields in found.items():
        assert [field for field in fields if f"`{field}`" not in rows[name]] == [], name


def test_what_is_written_is_read() -> None:
    kv = FakeKeyValue()
    write_all(kv)
    records = ClusterRecords(kv)
    assert records.config() == ClusterConfig("b" * 32, "blue")
    assert records.hosts() == [HOST]
    assert records.secret() == JoinSecret(b"x" * 16, 2.0, ("old",))
    assert records.alive() == {HOST.id}
    records.set_role(HOST.id, Role.MEMBER)
    assert records.host(HOST.id) == replace(HOST, role=Role.MEMBER)


@pytest.mark.parametrize("value", [
    b"", b"null", b"[]", b"{", b"\xff", b'{"schema":1}', b'{"schema":2}',
    b'{"schema":1,"id":7,"name":"x","address":"192.0.2.1","joined_s":1,"role":"client"}',
    b'{"schema":1,"id":"x","name":"x","address":"no","joined_s":1,"role":"client"}',
    b'{"schema":1,"id":"x","name":"x","address":"192.0.2.1","joined_s":"1","role":"client"}',
    b'{"schema":1,"id":"x","name":"x","address":"192.0.2.1","joined_s":1,"role":"king"}'])
def test_a_spoilt_host_is_named_and_left_alone(value: bytes) -> None:
    kv = FakeKeyValue()
    key = keys.cluster_host(HOST.id)
    kv.commit([], [Put(key, value)])
    for act in (ClusterRecords(kv).hosts, lambda: ClusterRecords(kv).host(HOST.id),
                lambda: ClusterRecords(kv).set_role(HOST.id, Role.MEMBER)):
        with pytest.raises(UnsupportedRecord, match=HOST.id):
            act()
    found = kv.get(key)
    assert found is not None
    assert found.value == value
