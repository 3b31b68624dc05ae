"""Tests that docs/cluster-state.md has every key and field that `slim cluster` writes."""

from __future__ import annotations

import json
from pathlib import Path

from driver.cluster.model import ClusterHost
from driver.cluster.records import ClusterConfig, ClusterRecords, JoinSecret
from driver.store.format import keys
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
