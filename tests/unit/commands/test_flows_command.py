"""Tests what `slim flows` asks a driver, and what it prints of its answers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from driver.__main__ import main
from driver.api.control import Control
from driver.commands import flows
from driver.errors import NotFound
from driver.services.ports import Ending, EventKind
from driver.services.seeing.flows import FlowsAnswer
from driver.services.seeing.refusals import Refusal
from driver.services.seeing.telling import FlowFilter, Told, Verdict
from tests.unit.commands.test_seeing_commands import driver
from tests.unit.seeing.test_following import event

AT_S = 1_700_000_000.25
OPENED = Told(event(7, host=IPv4Address("10.0.0.2")), AT_S, "client", "app", "web",
              "node2 (10.0.0.2)", Verdict.HOST)
CLOSED = replace(OPENED, event=event(
    7, kind=EventKind.CLOSE, lasted_ns=1_234_000_000, received_bytes=12_345_678, sent_bytes=99,
    ending=Ending.PEER, local_port=40001))
ACCEPTED = Told(event(
    8, kind=EventKind.ACCEPT, inbound=True, local=ip_address("fd00::2"), local_port=80,
    peer=ip_address("fd00::6"), peer_port=40002, reason="overlay_received"), AT_S, "client", "app",
    "", "", Verdict.OVERLAY)
REFUSED = Told(event(kind=EventKind.REFUSED, reason="host_dead", times=3), AT_S, "client", "app",
               "web", "node2 (10.0.0.2)", Verdict.REFUSED)
TABLE = """\
TIME          EVENT    CONTAINER         PEER               NAME      HOST              VERDICT  REASON         LASTED      IN     OUT  CLOSED BY
22:13:20.250  connect  client        ->  10.32.0.6:80       web       node2 (10.0.0.2)  host     -                   -       -       -  -
22:13:20.250  close    client        ->  10.32.0.6:80       web       node2 (10.0.0.2)  host     -               1.23s  12.3MB     99B  peer
22:13:20.250  accept   client:80     <-  [fd00::6]:40002    -         -                 overlay  -                   -       -       -  -
22:13:20.250  refused  client        ->  10.32.0.6:80       web       node2 (10.0.0.2)  refused  host_dead x3        -       -       -  -
"""  # noqa: E501
REFUSALS = """\
LAST                 CONTAINER      PEER          NAME  COUNT  REASON       MEANING
2023-11-14 22:13:20  client     ->  10.32.0.6:80  web       3  host_dead    its host is gone
2023-11-14 22:13:20  client:81  <-  (others)      -        40  no_listener  nobody listens
"""


def refusal(**changes: object) -> Refusal:
    return Refusal(**{  # type: ignore[arg-type]
        "first_s": AT_S - 1, "last_s": AT_S, "container": "client", "own": ip_address("10.32.0.2"),
        "own_port": 0, "network": "app", "inbound": False, "peer": ip_address("10.32.0.6"),
        "peer_port": 80, "peer_name": "web", "reason": "host_dead", "meaning": "its host is gone",
        "count": 3, **changes})


class Answers:
    """Answers Slim.Flows in turn; ends the command after the last."""

    def __init__(self, *answers: FlowsAnswer) -> None:
        self.asked: list[tuple[FlowFilter, str]] = []
        self._answers = [FlowsAnswer((), "1-1", 0, paused=False), *answers]

    def __call__(self, wanted: FlowFilter, after: str) -> FlowsAnswer:
        self.asked.append((wanted, after))
        if not self._answers:
            raise NotFound("that was all")
        return self._answers.pop(0)


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers(FlowsAnswer([OPENED, CLOSED], "1-3", 0, paused=False),
                      FlowsAnswer([ACCEPTED, REFUSED], "1-9", 4, paused=False),
                      FlowsAnswer([], "2-9", 0, paused=True))
    with driver(tmp_path, Control(dict, dict, follow=answers)) as slim:
        assert slim("flows", "client", "--follow", "--network", "app", "--verdict", "host",
                    "--reason", "x") == 1  # as it says, that was all
    assert capsys.readouterr().out == TABLE + (
        "... lost 4 events, of all containers: more came than are read\n"
        "... what happened in the last seconds is not shown: nobody has asked\n")
    wanted = FlowFilter("client", "app", Verdict.HOST, "x")
    assert answers.asked == [(wanted, after) for after in ("", "1-1", "1-3", "1-9", "2-9")]


def test_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = Answers(FlowsAnswer([CLOSED], "1-2", 5, paused=False),
                      FlowsAnswer([OPENED], "1-2", 0, paused=True))
    with driver(tmp_path, Control(dict, dict, follow=answers)) as slim:
        assert slim("flows", "--follow", "--json") == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[0] == {
        "Time": "2023-11-14T22:13:20.250Z", "Event": "close", "Container": "client",
        "Network": "app", "Direction": "out", "Local": "10.32.0.2", "LocalPort": 40001,
        "Peer": "10.32.0.6", "PeerPort": 80, "PeerName": "web", "PeerHost": "node2 (10.0.0.2)",
        "Verdict": "host", "Reason": "", "Times": None, "LastedSeconds": 1.234,
        "BytesIn": 12345678, "BytesOut": 99, "ClosedBy": "peer", "Socket": 7}
    assert found[1:3] == [{"Lost": 5}, {"Paused": True}]
    assert (found[3]["LastedSeconds"], found[3]["LocalPort"], found[3]["ClosedBy"]) == (
        None, None, None)


def test_for_some_seconds_only(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SHORT_S", 0.0)
    with driver(tmp_path, Control(dict, dict, follow=Answers())) as slim:
        assert slim("flows") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[FlowFilter] = []

    def answer(wanted: FlowFilter) -> list[Refusal]:
        asked.append(wanted)
        return [refusal(), refusal(inbound=True, own_port=81, peer=None, peer_name="", count=40,
                                   reason="no_listener", meaning="nobody listens")]

    with driver(tmp_path, Control(dict, dict, refusals=answer)) as slim:
        assert slim("flows", "client", "--refused") == 0
        assert capsys.readouterr().out == REFUSALS
        assert slim("flows", "--refused", "--json") == 0
    found = json.loads(capsys.readouterr().out)["Refusals"]
    assert [(each["Count"], each["Peer"], each["Direction"]) for each in found] == [
        (3, "10.32.0.6", "out"), (40, None, "in")]
    assert asked == [FlowFilter("client"), FlowFilter()]


def test_names_from_outside_cannot_reach_the_terminal(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = replace(CLOSED, container="a\x1b[2J", peer_name="b\nc", peer_host="d\x9b")
    with driver(tmp_path, Control(
            dict, dict, follow=Answers(FlowsAnswer([evil], "1-2", 0, paused=False)),
            refusals=lambda _: [refusal(container="a\x1b[2J", peer_name="b\nc")])) as slim:
        slim("flows", "--follow")
        slim("flows", "--follow", "--json")
        slim("flows", "--refused")
    out = capsys.readouterr().out
    assert not [each for each in out if not each.isprintable() and each != "\n"]
    assert "a?[2J" in out


def test_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with driver(tmp_path, Control(dict, dict, follow=Answers())) as slim:
        assert slim("flows", "--verdict", "fast") == 2
        assert slim("flows", "--follow", "--refused") == 2
    assert "not allowed with argument" in capsys.readouterr().err
    assert main(["flows", "--socket", str(tmp_path / "none"), "--config", "/dev/null"]) == 1
    assert "no driver answers on" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [
    (0.000_05, "50us"), (0.001_23, "1.23ms"), (0.5, "500ms"), (1.234, "1.23s"), (99.94, "99.9s"),
    (100, "1m40s"), (3600, "1h00m"), (90_000, "1d01h")])
def test_durations(seconds: float, text: str) -> None:
    assert flows._lasted(seconds) == text
