"""Tests `slim top`: how pairs are joined, what is printed, and how a terminal is left."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from driver.api.control import Control
from driver.commands import top, top_rows
from driver.commands.top_rows import Names, containers, joined
from driver.commands.top_view import Rates, lines
from driver.errors import DatapathError
from driver.model import HostId
from driver.services.ports import End, EndpointSeen, PairRate
from driver.services.ports import Path as Way
from driver.services.watching.picture import EndpointOf, PairOf, Picture
from driver.services.watching.states import HostState
from driver.work.shown import columns
from tests.conftest import PROJECT
from tests.support.run.wait import wait_until
from tests.unit.commands.test_seeing_commands import driver

ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)


def pair(reporter: str, here: str, there: str, **changes: Any) -> dict[str, Any]:
    return {"From": {"Vni": 1, "Address": here}, "To": {"Vni": 1, "Address": there},
            "Reporter": reporter, "Path": "host", "Connections": 2, "OpenedPerSecond": 1.5,
            "BytesInPerSecond": 100.0, "BytesOutPerSecond": 5000.0, **changes}


def endpoint(host: str, name: str, address: str) -> dict[str, Any]:
    return {"Id": name[:12], "Vni": 1, "Container": name, "Host": host, "Address": address,
            "Address6": None, "OffersHostPath": True}


def host(host_id: str, name: str, state: str, *problems: str) -> dict[str, Any]:
    return {"Id": host_id, "Name": name, "Address": "198.18.0.1", "State": state, "Version": "1",
            "AgeSeconds": 1.0, "Problems": list(problems)}


def reason(host_id: str, name: str, per_s: float, kind: str = "other") -> dict[str, Any]:
    return {"Host": host_id, "Name": name, "PerSecond": per_s, "Total": 100, "Kind": kind}


def total(host_id: str, path: str, received: float, sent: float) -> dict[str, Any]:
    return {"Host": host_id, "Path": path, "Connections": 1, "OpenedPerSecond": 0.0,
            "BytesInPerSecond": received, "BytesOutPerSecond": sent}


FOUND: dict[str, Any] = {
    "At": 1.8e9, "Host": ONE, "EverySeconds": 2.0, "Ready": True,
    "Hosts": [host(ONE, "node1", "here"), host(TWO, "node2", "ok"),
              host(THREE, "node3", "silent", "it has told nothing for 30 s")],
    "Networks": [{"Id": "n", "Vni": 1, "Name": "app", "Subnets": [], "HostPath": "auto",
                  "Internal": False}],
    "Endpoints": [endpoint(ONE, "web", "10.32.0.2"), endpoint(TWO, "db", "10.32.0.6"),
                  endpoint(ONE, "cache", "10.32.0.3")],
    "Pairs": [pair(ONE, "10.32.0.2", "10.32.0.6"),
              pair(TWO, "10.32.0.6", "10.32.0.2", BytesInPerSecond=4000.0,
                   BytesOutPerSecond=120.0, Connections=3),
              pair(ONE, "10.32.0.2", "10.32.0.3", Path="local", BytesInPerSecond=10.0,
                   BytesOutPerSecond=20.0, OpenedPerSecond=8.0),
              pair(ONE, "10.32.0.3", "10.32.0.2", Path="local", BytesInPerSecond=20.0,
                   BytesOutPerSecond=10.0, OpenedPerSecond=8.0),
              pair(ONE, "10.32.0.2", "1.1.1.1", Path="outside", BytesInPerSecond=7.0,
                   BytesOutPerSecond=0.0, To={"Vni": 0, "Address": "1.1.1.1"})],
    "Reasons": [reason(ONE, "connected", 10.0), reason(ONE, "accepted", 3.0),
                reason(TWO, "overlay_only", 2.0, "fallback"), reason(TWO, "local", 0.5),
                reason(TWO, "spoofed_source", 0.25, "drop"), reason(THREE, "connected", 99.0)],
    "Totals": [total(ONE, "host", 100, 5000), total(TWO, "host", 5000, 100),
               total(ONE, "local", 30, 30), total(TWO, "overlay", 300, 1700),
               total(ONE, "outside", 7, 0), total(THREE, "host", 1e9, 1e9)],
    "Refusals": [], "More": {"Pairs": 0, "Endpoints": 0}}

TABLE = """\
slim top on node1: 2 of 3 hosts, a sample each 2 s
12 connections/s, 6.8kB/s, overlay 25% of the bytes between hosts, \
2.0 fallbacks/s (overlay_only), 0.2 drops/s (spoofed_source)
! silent: node3 (it has told nothing for 30 s)

FROM   HOST   TO     HOST   PATH     OPEN  NEW/S  OUT/S   IN/S
web    node1  db     node2  host        3    1.5  5.0kB   120B
web    node1  cache  node1  local       2    8.0    20B    10B
1.1.1.1  -    web    node1  outside     2    1.5     7B     0B
"""


@pytest.fixture
def found() -> dict[str, Any]:
    return deepcopy(FOUND)


def shown(found: dict[str, Any], **options: Any) -> list[str]:
    return lines(found, **{"cluster": True, "by": "bytes", "by_pairs": True, **options})


def words(rows: list[str]) -> list[list[str]]:
    return [row.split() for row in rows]


def test_pairs(found: dict[str, Any]) -> None:
    rows = shown(found)
    assert rows[:4] == TABLE.splitlines()[:4]
    assert words(rows[4:]) == words(TABLE.splitlines()[4:])
    assert len({row.index("PATH") for row in rows if "PATH" in row}) == 1


def test_by_connections(found: dict[str, Any]) -> None:
    assert shown(found, by="connections")[5].startswith("web      node1  cache")


def test_containers(found: dict[str, Any]) -> None:
    found["Pairs"][0]["Path"] = found["Pairs"][1]["Path"] = "overlay"
    rows = shown(found, by_pairs=False)[4:]
    assert words(rows) == words([
        "CONTAINER HOST NETWORK OPEN NEW/S OUT/S IN/S OVERLAY PEERS",
        "web node1 app 7 11 5.0kB 137B 99% 3", "db node2 app 3 1.5 120B 5.0kB 100% 1",
        "cache node1 app 2 8.0 10B 20B 0% 1"])


def test_a_pair_that_two_tell_of_is_one() -> None:
    one, = joined({**FOUND, "Pairs": FOUND["Pairs"][:2]})
    assert (one.first, one.second) == ((1, "10.32.0.2"), (1, "10.32.0.6"))
    assert (one.connections, one.opened, one.out_bytes, one.in_bytes) == (3, 1.5, 5000, 120)
    assert len(joined(FOUND)) == 3


def test_the_same_addresses_by_another_path_or_network_are_others() -> None:
    others = [pair(ONE, "10.32.0.2", "10.32.0.6", Path="overlay"),
              pair(ONE, "10.32.0.2", "10.32.0.6", From={"Vni": 2, "Address": "10.32.0.2"},
                   To={"Vni": 2, "Address": "10.32.0.6"})]
    assert len(joined({**FOUND, "Pairs": [*FOUND["Pairs"][:2], *others]})) == 3


def test_what_a_silent_host_has_told(found: dict[str, Any]) -> None:
    """It counts for nothing that another host tells of, and is marked where it is all there is."""
    found["Pairs"] += [pair(THREE, "10.32.0.6", "10.32.0.2", BytesOutPerSecond=1e9),
                       pair(THREE, "10.32.0.8", "10.32.0.9", BytesOutPerSecond=1e9)]
    rows = shown(found)[5:]
    assert [row.split()[0] for row in rows] == ["web", "web", "1.1.1.1", "10.32.0.8"]
    assert "5.0kB" in rows[0]
    assert ["host, stale" in row for row in rows] == [False, False, False, True]


def test_both_addresses_of_a_container_are_one_row(found: dict[str, Any]) -> None:
    found["Endpoints"][0]["Address6"] = "fd00::2"
    found["Pairs"].append(pair(ONE, "fd00::2", "fd00::6"))
    rows = containers(joined(found), Names(found))
    assert [each.connections for each in rows if each.at == (1, "10.32.0.2")] == [9]


def test_what_goes_on_in_all(found: dict[str, Any]) -> None:
    """Of a cluster each byte is counted where it is sent; of one host also what it receives."""
    cluster = Rates(found, cluster=True)
    assert (cluster.bytes, cluster.connections) == (6830, 12.5)
    assert cluster.overlay == 0.25
    found["Totals"] = [each for each in found["Totals"] if each["Host"] == ONE]
    alone = Rates(found, cluster=False)
    assert (alone.bytes, alone.overlay) == (5130, 0)
    found["Totals"] = []
    assert "overlay - of" in Rates(found, cluster=True).line()


def test_hostile_texts(found: dict[str, Any]) -> None:
    bad = "\x1b[2J\r\n\x07\u202eevil" + "x" * 10_000
    found["Endpoints"][0]["Container"] = found["Hosts"][0]["Name"] = bad
    found["Hosts"][2]["Problems"] = [bad]
    found["Networks"][0]["Name"] = found["Pairs"][0]["Path"] = bad
    for by_pairs in (True, False):
        for row in shown(found, by_pairs=by_pairs):
            assert row.isprintable()
        table = shown(found, by_pairs=by_pairs)[4:]
        assert all(len(cell) <= top_rows.NAME_SHOWN for row in table for cell in row.split()[:1])


def test_only_as_many_rows_as_there_is_room_for(found: dict[str, Any]) -> None:
    found["Pairs"] = [pair(ONE, "10.32.0.2", f"10.32.1.{number}") for number in range(200)]
    found["More"]["Pairs"] = 7
    assert len(shown(found, rows=20)) == 20
    assert shown(found)[0].endswith(", 7 pairs of little traffic are left out")
    assert len(shown(found)) == 4 + 1 + 200


def test_before_the_first_sample(found: dict[str, Any]) -> None:
    found.update(EverySeconds=0.0, Pairs=[], Totals=[], Reasons=[], Endpoints=[])
    assert "the first sample is being taken" in shown(found)[0]


@pytest.mark.parametrize(("text", "width", "wanted"), [
    ("abc", 2, "ab"), ("日本語", 5, "日本"), ("日本語", 6, "日本語"), ("é" * 3, 3, "é" * 3)])
def test_what_fits_into_columns(text: str, width: int, wanted: str) -> None:
    assert columns(text, width) == wanted


# Against a driver's socket.

PICTURE = Picture(
    1.8e9, HostId(ONE), 2.0, True, (HostState(HostId(ONE), "node1", "198.18.0.1", "here", "1",
                                              0.0),), (),
    (EndpointOf(HostId(ONE), EndpointSeen("e", 1, "web", ip_address("10.32.0.2"), None, True)),),
    (PairOf(HostId(ONE), PairRate(End(1, ip_address("10.32.0.2")), End(1, ip_address("10.32.0.6")),
                                  Way.HOST, 1, 0, 3000, 4)),), (), (), (), 0, 0)


class Asked:
    """Answers Slim.Picture; at first there are no rates."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.error = ""

    def __call__(self, cluster: bool) -> Picture:
        self.asked.append(cluster)
        if self.error:
            raise DatapathError(self.error)
        return replace(PICTURE, ready=len(self.asked) > 1)


@pytest.mark.parametrize("flags", [["--once"], []])
def test_once_with_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                         monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    monkeypatch.setattr(top, "AGAIN_S", 0.01)
    asked = Asked()
    with driver(tmp_path, Control(dict, dict, picture=asked)) as slim:
        assert slim("top", "--cluster", *flags) == 0
    assert asked.asked == [True, True]
    out = capsys.readouterr().out
    assert "slim top on node1: 1 of 1 hosts" in out
    assert re.search(r"^10\.32\.0\.6 +- +web|^web +node1 +10\.32\.0\.6", out, re.MULTILINE)
    assert "\x1b" not in out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
              ) -> None:
    monkeypatch.setattr(top, "AGAIN_S", 0.01)
    asked = Asked()
    with driver(tmp_path, Control(dict, dict, picture=asked)) as slim:
        assert slim("top", "--json", "--containers", "--by", "connections") == 0
    assert asked.asked == [False, False]
    assert json.loads(capsys.readouterr().out)["Pairs"][0]["BytesInPerSecond"] == 3000


def test_rates_are_not_waited_for_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "READY_S", 0.0)
    with driver(tmp_path, Control(dict, dict, picture=Asked())) as slim:
        assert slim("top", "--once") == 0
    assert "node1" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [
    ["--interval", "0"], ["--interval", "nan"], ["--interval", "x"], ["--by", "rows"],
    ["--pairs", "--containers"]])
def test_wrong_options(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
                       ) -> None:
    with driver(tmp_path, Control(dict, dict)) as slim:
        assert slim("top", *flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_driver_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with driver(tmp_path, Control(dict, dict)) as slim:
        assert slim("top") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


class Terminal:
    """`slim top` on a terminal of its own."""

    def __init__(self, tmp_path: Path, *flags: str) -> None:
        self.master, slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "driver", "top", "--socket", str(tmp_path / "slim.sock"),
             "--config", "/dev/null", "--interval", "0.5", *flags], cwd=PROJECT, stdin=slave,
            stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)

    def read(self) -> str:
        with suppress(OSError):
            self.seen += os.read(self.master, 1 << 16).decode(errors="replace")
        return self.seen

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ended(self) -> bool:
        self.read()
        return self.process.poll() is not None


@contextmanager
def terminal(tmp_path: Path, *flags: str) -> Iterator[Terminal]:
    made = Terminal(tmp_path, *flags)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.master)


@pytest.mark.parametrize("end", ["q", signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_as_before(tmp_path: Path, end: str | signal.Signals) -> None:
    with driver(tmp_path, Control(dict, dict, picture=Asked())), terminal(tmp_path) as slim:
        wait_until(lambda: slim.read().count("\x1b[H") > 2, 30, "it is refreshed")
        if isinstance(end, signal.Signals):
            slim.process.send_signal(end)
        else:
            slim.type(end)
        wait_until(slim.ended, 30, "it ends")
        wait_until(lambda: slim.read().endswith("\x1b[?7h\x1b[?25h\x1b[?1049l"), 30,
                   "all is as before")
    assert slim.process.returncode == (128 + 15 if end is signal.SIGTERM else 0)
    assert slim.seen.startswith("\x1b[?1049h\x1b[?25l\x1b[?7l")
    assert "Traceback" not in slim.seen


def test_keys_and_a_driver_that_goes(tmp_path: Path) -> None:
    asked = Asked()
    with driver(tmp_path, Control(dict, dict, picture=asked)), terminal(tmp_path) as slim:
        wait_until(lambda: "FROM" in slim.read(), 30, "pairs")
        slim.type("c")
        wait_until(lambda: "CONTAINER" in slim.read(), 30, "containers")
        asked.error = "no map"
        wait_until(lambda: "! no map" in slim.read(), 30, "why there is nothing new")
        assert slim.process.poll() is None
