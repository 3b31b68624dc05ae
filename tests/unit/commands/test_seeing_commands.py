"""Tests what `slim ss` and `slim why` ask a driver, and what they print of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from driver.__main__ import main
from driver.api.app import create_app
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.api.server import ApiServer
from driver.commands.ss import age, amount, rtt
from driver.errors import NotFound
from driver.services.ports import OpenSocket, SocketFilter
from driver.services.ports import Path as Way
from driver.services.seeing.connections import Connection, Listing
from driver.services.seeing.why import Answer as Reasons
from tests.unit.seeing.world import World

# One line of the table, each.
HEADING = ("CONTAINER  LOCAL            PEER            NAME  HOST              PATH     STATE    "
           "AGE     RTT  RETRANS      IN    OUT")
FIRST = ("client     10.32.0.2:40001  10.32.0.6:80    web   node2 (10.0.0.2)  host     ESTAB  "
         "1h01m  0.13ms        2  12.3MB  1.0kB")
SECOND = ("client     [fd00::2]:40002  [fd00::6]:8080  -     -                 overlay  ESTAB      "
          "-       -        0      0B     0B")
LISTENERS = """\
CONTAINER  LOCAL       NETWORK  WAITING  BACKLOG
web        0.0.0.0:80  -              3      128
"""


def connection(**changes: Any) -> Connection:
    socket = OpenSocket(ip_address("1.1.1.1"), 1, ip_address("1.1.1.2"), 2, "ESTAB", {}, 134, 2,
                        12_345_678, 1000)
    return Connection(**{
        "container": "client", "local": ip_address("10.32.0.2"), "local_port": 40001,
        "peer": ip_address("10.32.0.6"), "peer_port": 80, "peer_name": "web",
        "peer_host": "node2 (10.0.0.2)", "network": "app", "path": Way.HOST, "socket": socket,
        "age_s": 3670.5, **changes})


BARE = connection(
    local=ip_address("fd00::2"), local_port=40002, peer=ip_address("fd00::6"), peer_port=8080,
    peer_name="", peer_host="", path=Way.OVERLAY, age_s=None,
    socket=OpenSocket(ip_address("1.1.1.1"), 1, ip_address("1.1.1.2"), 2, "ESTAB", {}))
LISTENER = connection(
    container="web", local=ip_address("0.0.0.0"), local_port=80, network="", path=Way.NONE,
    socket=OpenSocket(ip_address("0.0.0.0"), 80, ip_address("0.0.0.0"), 0, "LISTEN", {},
                      waiting=3, backlog=128))


@contextmanager
def driver(tmp_path: Path, control: Control) -> Iterator[Callable[..., int]]:
    """Serve it; yield what runs `slim` against it."""
    none: Any = object()
    path = str(tmp_path / "slim.sock")
    with pytest.MonkeyPatch.context() as patched:
        for kind in (NetworkDriver, IpamDriver):
            patched.setattr(kind, "calls", lambda _self: {})
        app = create_app(NetworkDriver(none, none, none, "local"), IpamDriver(none), control)
    server = ApiServer(app, path, threads=1)
    server.start()
    try:
        yield lambda *words: main([words[0], "--socket", path, "--config", "/dev/null", *words[1:]])
    finally:
        server.stop()


class Asked:
    """Answers Slim.Sockets, and remembers what was asked."""

    def __init__(self, listing: Listing) -> None:
        self.wanted = SocketFilter()
        self._listing = listing

    def __call__(self, wanted: SocketFilter) -> Listing:
        self.wanted = wanted
        return self._listing


@contextmanager
def saying(tmp_path: Path, listing: Listing) -> Iterator[tuple[Callable[..., int], Asked]]:
    asked = Asked(listing)
    with driver(tmp_path, Control(dict, dict, sockets=asked)) as slim:
        yield slim, asked


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with saying(tmp_path, Listing([connection(), BARE])) as (slim, asked):
        assert slim("ss") == 0
    assert capsys.readouterr().out.splitlines() == [HEADING, FIRST, SECOND]
    assert asked.wanted == SocketFilter()


def test_listeners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with saying(tmp_path, Listing([LISTENER])) as (slim, asked):
        assert slim("ss", "web", "--listening", "--network", "app", "--all") == 0
    assert capsys.readouterr().out == LISTENERS
    assert asked.wanted == SocketFilter("web", "app", None, listening=True, everything=True)


def test_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = Listing([connection()], {"client": 7}, {"web": "no time"})
    with saying(tmp_path, listing) as (slim, asked):
        assert slim("ss", "--path", "host") == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "... and 7 more of client: narrow it down by container, --network or --path",
        "not all of web: no time"]
    assert asked.wanted == SocketFilter(path=Way.HOST)


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with saying(tmp_path, Listing([connection()], {"client": 7})) as (slim, _):
        assert slim("ss", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["More"] == {"client": 7}
    assert found["Sockets"] == [{
        "Container": "client", "Network": "app", "Local": "10.32.0.2", "LocalPort": 40001,
        "State": "ESTAB", "Peer": "10.32.0.6", "PeerPort": 80, "PeerName": "web",
        "PeerHost": "node2 (10.0.0.2)", "Path": "host", "AgeSeconds": 3670.5,
        "RttMicroseconds": 134, "Retransmissions": 2, "BytesIn": 12345678, "BytesOut": 1000}]


def test_names_from_outside_cannot_reach_the_terminal(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = connection(container="a\x1b[2J", peer_name="b\nc", peer_host="d\x9b")
    with saying(tmp_path, Listing([evil], {"e\x07": 1}, {"f\r": "g\x00"})) as (slim, _):
        assert slim("ss") == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4
    assert not [each for each in out if not each.isprintable() and each != "\n"]
    assert "a?[2J" in out


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_wanted: SocketFilter) -> Listing:
        raise NotFound("no container 'x' is here; there are client")

    with driver(tmp_path, Control(dict, dict, sockets=fail)) as slim:
        assert slim("ss", "x") == 1
        assert slim("ss", "--path", "fast") == 2
        assert slim("why", "client", "web") == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "slim ss: no container 'x' is here; there are client")


def test_nor_can_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_asked: str) -> Reasons:
        raise NotFound("on a\x1b[2Jhost:\ntype it there")

    with driver(tmp_path, Control(dict, dict, why=fail)) as slim:
        assert slim("why", "client", "web") == 1
    assert capsys.readouterr().err == "slim why: on a?[2Jhost: type it there\n"


WHY = """\
overlay path, because client has rules (table inet filter)

10.32.0.2 (client) -> 10.32.0.6:80 (web, node2 (198.18.0.2)): overlay
  ok  network    in common: app
  ok  peer       10.32.0.6 is known, on node2 (198.18.0.2)
  ok  host       node2 (198.18.0.2) does not count as gone
  NO  client     client has rules (table inet filter) [own_rules]
                 what to do: nothing if the rules are meant; the log names the table. If they never
                 look at addresses of the network and speed matters: label `slim.host_path=on`
  ok  own port   client has endpoint port 61000
  ok  server     node2 (198.18.0.2) offers endpoint port 61005 for it
  ok  wire       SYNs to node2 (198.18.0.2) are not known to fail
  ok  share      there is room for connections of client
  ?   listener   whether anything listens at port 80 is known on that host only: `slim ss web
                 --listening`
"""


def test_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.maps.kept_off[world.client_cookie] = "own_rules"
    world.detail = "table inet filter"
    with driver(tmp_path, Control(dict, dict, why=world.why.ask)) as slim:
        assert slim("why", "client", "10.32.0.6:80") == 0
        assert capsys.readouterr().out == WHY
        assert slim("why", "client", "web", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["Target"], each["Path"], each["Reason"]) for each in found["Ways"]] == [
        ("10.32.0.6", "overlay", "own_rules"), ("fd00:32::6", "overlay", "own_rules")]
    assert found["Ways"][0]["Checks"][3]["Remedy"].startswith("nothing if the rules are meant")


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "-"), (0.4, "0s"), (59.9, "59s"), (61, "1m01s"), (3600, "1h00m"), (90_000, "1d01h")])
def test_ages(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(("us", "text"), [
    (None, "-"), (0, "-"), (134, "0.13ms"), (9_999, "10.00ms"), (45_600, "46ms")])
def test_round_trip_times(us: int | None, text: str) -> None:
    assert rtt(us) == text


@pytest.mark.parametrize(("count", "text"), [
    (0, "0B"), (999, "999B"), (1000, "1.0kB"), (123_456, "123kB"), (2.5e9, "2.5GB"),
    (3e15, "3000.0TB")])
def test_amounts(count: float, text: str) -> None:
    assert amount(count) == text
