"""Tests the records of rounds: what is written is read, refused if it is bad, and documented."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from driver.errors import UnsupportedRecord
from driver.services.ports import Heard, Participant, Round, Row, Sent
from driver.store.format import keys, records, rounds
from driver.store.kv.protocol import Change, Entry
from driver.store.rounds import EtcdRounds, RoundListener
from tests.support.fakes.kv import FakeKeyValue
from tests.unit.testing.rounds import ROUND, host, participant

A = participant(1, guard="missing: x", etcd_us=5, clock_us=1_800_000_000_000_000)
B = IPv4Address("10.0.0.2")
ROW = Row(A.host, {B: Sent(7, "no", "not", 1400, "bad"), IPv4Address("10.0.0.3"): Sent()},
          {B: Heard(frozenset({64, 1024}), frozenset({64}), frozenset({1024}), 1400,
                    frozenset({61000}), frozenset({65535}), "192.0.2.1"),
           IPv4Address("10.0.0.3"): Heard()})


def entry(fields: records.Fields) -> Entry:
    return Entry("/slim/v1/test/x", records.encode(fields), 1)


@pytest.mark.parametrize("asked", [
    ROUND, replace(ROUND, lease=1 << 62, go=True, focus=A.host, one_way=True)])
def test_a_round(asked: Round) -> None:
    assert records.decode(entry(rounds.round_fields(asked)), rounds.round_) == asked


def test_a_participant_and_a_row() -> None:
    assert records.decode(entry(rounds.participant_fields(A)), rounds.participant) == A
    assert records.decode(entry(rounds.row_fields(ROW)), rounds.row) == ROW


BAD: list[tuple[Any, records.Fields]] = [
    (rounds.round_, {**rounds.round_fields(ROUND), "token": "00"}),
    (rounds.round_, {**rounds.round_fields(ROUND), "token": "x" * 16}),
    (rounds.round_, {**rounds.round_fields(ROUND), "lease": -1}),
    (rounds.participant, {**rounds.participant_fields(A), "ports": [1]}),
    (rounds.participant, {**rounds.participant_fields(A), "underlay": "fe80::1"}),
    (rounds.participant, {**rounds.participant_fields(A), "ports": [1, 70000]}),
    (rounds.participant, {**rounds.participant_fields(A), "mtu": 1 << 20}),
    (rounds.participant, {**rounds.participant_fields(A), "underlay": "::1"}),
    (rounds.participant, {**rounds.participant_fields(A), "version": 7}),
    (rounds.row, {"id": A.host, "sent": {"x": {}}, "heard": {}}),
    (rounds.row, {"id": A.host, "sent": {}, "heard": {str(B): {"passed": ["64"]}}}),
    (rounds.row, {"id": A.host, "sent": [], "heard": {}}),
]


@pytest.mark.parametrize(("build", "fields"), BAD)
def test_what_is_bad_is_refused(build: Any, fields: records.Fields) -> None:
    with pytest.raises(UnsupportedRecord):
        records.decode(entry(fields), build)


def test_long_texts_are_cut() -> None:
    long: Participant = records.decode(entry(rounds.participant_fields(
        replace(A, guard="x" * 10_000))), rounds.participant)
    assert len(long.guard) == 300


def test_who_follows_hears_of_rounds() -> None:
    heard: list[Round | None] = []
    listener = RoundListener(heard.append)
    value = records.encode(rounds.round_fields(ROUND))
    listener.listed([], 1)
    listener.listed([Entry(keys.ROUND, value, 1)], 1)
    listener.changed([Change(keys.ROUND, None, 2), Change(keys.ROUND + "s", value, 3),
                      Change(keys.ROUND, b"{", 4)])
    assert heard == [None, ROUND, None, None]


def test_every_key_and_field_has_its_line(project: Path) -> None:
    kv = FakeKeyValue()
    written = EtcdRounds(kv)
    begun = written.begin(ROUND)
    assert begun is not None
    written.enter(begun, A)
    written.put_row(begun, ROW)
    text = (project / "docs/testing-a-cluster.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines()
            if line.startswith("| `test/")}
    found = {each.key.removeprefix(keys.ROOT).replace(A.host, "<host>").replace(
        ROUND.token.hex(), "<token>"): json.loads(each.value)
        for each in kv.range(keys.ROOT).entries}
    assert found.keys() == rows.keys()
    for name, fields in found.items():
        assert [field for field in fields.keys() - {"schema", "write"}
                if f"`{field}`" not in rows[name]] == [], name
    row = found["test/rows/<token>/<host>"]
    for field in (*row["sent"][str(B)], *row["heard"][str(B)]):
        assert f"`{field}`" in text.partition("In `sent`:")[2], field


def test_an_older_driver_reads_a_host_with_a_version_and_the_other_way_round() -> None:
    fields = records.host_fields(host(A))
    assert records.decode(entry(fields), records.host).version == "1.0"
    del fields["version"]
    assert records.decode(entry(fields), records.host).version == ""
