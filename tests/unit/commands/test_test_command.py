"""Tests what `slim test` prints, and its exit status."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from driver.__main__ import main
from driver.commands.test import as_object, show
from driver.services.testing.judging import judge
from tests.unit.testing.rounds import changed, collected, participant

A, B, C = (participant(number) for number in (1, 2, 3))


def test_people_see_hosts_ways_and_faults(capsys: pytest.CaptureFixture[str]) -> None:
    found = changed(collected(A, B, silent=[participant(4, version="")], absent=[C]), A, B,
                    heard={"passed": frozenset()})
    show(judge(found), 2.04)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 hosts, 2 took part; 2 of 12 ways tested in 2.0 s"
    assert lines[2:7] == [
        "#  HOST  UNDERLAY  SLIM  MTU   ETCD    CLOCK   GUARD",
        "1  a     10.0.0.1  1.0   1500  0.9 ms  ±0.1 s  in force",
        "2  b     10.0.0.2  1.0   1500  0.9 ms  ±0.1 s  in force",
        "3  c     10.0.0.3  -     -     -       -       no driver",
        "4  d     10.0.0.4  -     -     -       -       does not answer"]
    assert lines[8:13] == ["FROM  TO 1  2       3  4",
                           "1     -     udp-in  ?  ?",
                           "2     0.12  -       ?  ?",
                           "3     ?     ?       -  ?",
                           "4     ?     ?       ?  -"]
    assert [line.split(": ")[0] for line in lines[15:]] == [
        "! no-driver", "! no-answer", "! udp-in"]


def test_many_hosts_have_signs(capsys: pytest.CaptureFixture[str]) -> None:
    many = [participant(1 + number % 8, host=f"{number:032x}", name=f"h{number:02}",
                        underlay=A.underlay + number) for number in range(20)]
    found = changed(collected(*many), many[0], many[1], heard={"whole": 1400})
    found = changed(found, many[1], many[0], sent={"rtt_us": -1})
    show(judge(found), 1.0)
    lines = capsys.readouterr().out.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("FROM"))
    assert lines[first + 1].split()[1:4] == ["-", "!", "."]
    assert lines[first + 2].split()[1:4] == ["~", "-", "."]
    assert lines[-2].startswith("! mtu: h00 to h01: ")
    assert lines[-1].startswith("~ ping: h01 to h00: ")


def test_all_well(capsys: pytest.CaptureFixture[str]) -> None:
    show(judge(collected(A, B)), 1.0)
    assert capsys.readouterr().out.endswith("\nall well\n")


def test_json() -> None:
    found = as_object(judge(changed(collected(A, B), A, B, heard={"whole": 1400})), 1.23)
    assert json.loads(json.dumps(found)) == found
    assert found["took_s"] == 1.2
    assert not found["all_well"]
    assert [(each["name"], each["took_part"]) for each in found["hosts"]] == [
        ("a", True), ("b", True)]
    bad = next(way for way in found["ways"] if way["from_name"] == "a")
    assert (bad["wrong"], bad["path_mtu"], bad["round_trip_ms"]) == (["mtu"], 1400, 0.12)
    (fault,) = found["faults"]
    assert fault["kind"] == "mtu"
    assert fault["ways"] == [{"from": A.host, "to": B.host}]


def test_what_is_foreign_does_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(B, name="\x1b]0;x\x07", version="\x1b[2J", device="\x1b")
    show(judge(changed(collected(A, bad), A, bad, heard={"whole": 0})), 1.0)
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_without_etcd_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--etcd", "http://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.startswith("slim test: ")
