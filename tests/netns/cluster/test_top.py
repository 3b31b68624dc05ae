"""Tests what two hosts' drivers tell whoever watches, and that they tell nothing without."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from driver.__main__ import main
from driver.commands.control_client import ask
from driver.store.format import keys
from tests.netns.cluster.etcd_world import LONG_S, Box, World
from tests.support.run.wait import wait_until
from tests.support.world.served import Host

SENDER = """
    c = connected(sys.argv[1], 80, timeout_s=20)
    ready()
    for line in sys.stdin:
        print(len(asked(c, b"x" * 40000)), flush=True)
"""


def picture(host: Host, *, cluster: bool = True) -> dict[str, Any]:
    return ask(host.socket, "Slim.Picture", {"Cluster": cluster})


def states(found: dict[str, Any]) -> list[str]:
    return [each["State"] for each in found["Hosts"]]


def state_of(world: World, other: int, seen_by: int = 0) -> dict[str, Any]:
    """What one host's picture says of another host."""
    found: list[dict[str, Any]] = picture(world.hosts[seen_by])["Hosts"]
    return next(each for each in found if each["Address"] == f"198.18.7.{other + 1}")


def told(world: World) -> list[str]:
    return [entry.key for prefix in (keys.WATCHERS, keys.SUMMARIES)
            for entry in world.cluster.entries(prefix)]


@pytest.fixture
def quiet(world: World) -> Iterator[World]:
    """Nobody watches, before and after."""
    wait_until(lambda: not told(world), LONG_S, "nobody watches")
    yield world
    wait_until(lambda: not told(world), LONG_S, "nothing is told any more")


def of(found: dict[str, Any], box: Box, reporter: str) -> list[dict[str, Any]]:
    return [each for each in found["Pairs"]
            if each["From"]["Address"] == box.ip and each["Reporter"] == reporter]


def test_the_pairs_of_both_hosts(quiet: World) -> None:
    here, there = quiet.boxes
    wait_until(lambda: states(picture(here.host)) == ["here", "ok"], LONG_S, "both tell")
    found = picture(here.host)
    mine, theirs = (each["Id"] for each in found["Hosts"])
    assert found["Host"] == mine
    own, other = of(found, here, mine), of(found, there, theirs)
    assert [(each["To"]["Address"], each["Path"], each["Connections"]) for each in own] == [
        (there.ip, "host", 1)]
    assert [(each["To"]["Address"], each["Path"], each["Connections"]) for each in other] == [
        (here.ip, "host", 1)]
    assert {(each["Id"], each["Container"], each["Host"], each["Address"])
            for each in found["Endpoints"]} == {
        (box.endpoint[:12], box.endpoint[:12], host, box.ip)
        for box, host in ((here, mine), (there, theirs))}
    network, = found["Networks"]
    assert network["Subnets"] == [{"Cidr": "10.50.0.0/16", "Used": 2, "Size": 65533}]
    assert {each["Host"] for each in found["Reasons"] if each["Name"] == "connected"} <= {
        mine, theirs}


def test_bytes_and_new_connections(quiet: World) -> None:
    """Both ends see the same bytes, and a connection that was opened since the last sample."""
    here, there = quiet.boxes
    wait_until(lambda: picture(here.host)["Ready"], LONG_S, "there are rates")
    program = quiet.program(here, SENDER, there.ip)
    assert program.line() == "ready"
    seen: dict[str, tuple[float, float]] = {}
    opened: set[str] = set()

    def both() -> bool:
        program.say("x")
        assert int(program.line()) == 40000
        found = picture(here.host)
        for each in found["Pairs"]:
            if each["BytesInPerSecond"] and each["BytesOutPerSecond"]:
                seen[each["Reporter"]] = each["BytesInPerSecond"], each["BytesOutPerSecond"]
            if each["OpenedPerSecond"]:
                opened.add(each["Reporter"])
        return len(seen) == len(opened) == 2

    wait_until(both, LONG_S, "both tell of bytes and of the new connection")
    program.end()


@pytest.mark.parametrize("rows", ["--pairs", "--containers"])
def test_the_command(quiet: World, capsys: pytest.CaptureFixture[str], rows: str) -> None:
    here, there = quiet.boxes
    assert main(["top", "--socket", here.host.socket, "--config", "/dev/null", "--cluster",
                 "--once", rows]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 hosts" in out
    table = [line.split() for line in out.splitlines()]
    # Names are ids where there is no Docker; what both hosts tell of is one row.
    ids = {box.endpoint[:12] for box in (here, there)}
    if rows == "--pairs":
        assert [{line[0], line[2]} for line in table if ids & set(line)] == [ids]
    else:
        assert sorted(line[0] for line in table if ids & set(line)) == sorted(ids)


def test_this_host_alone_asks_nobody(quiet: World) -> None:
    here, there = quiet.boxes
    before = revision(quiet)
    wait_until(lambda: picture(here.host, cluster=False)["Ready"], LONG_S, "there are rates")
    found = picture(here.host, cluster=False)
    assert states(found) == ["here", "unknown"]  # the second one has the pair's other end
    assert [each["To"]["Address"] for each in found["Pairs"]] == [there.ip]
    assert {each["Address"]: each["Host"] for each in found["Endpoints"]}.keys() == {
        here.ip, there.ip}
    assert told(quiet) == []
    assert revision(quiet) == before


def revision(world: World) -> int:
    """Return etcd's revision, which each write raises."""
    answer = json.loads(world.cluster.etcdctl("get", "x", "--write-out=json").stdout)
    return int(answer["header"]["revision"])


def test_a_driver_that_dies_is_silent_and_comes_back(quiet: World) -> None:
    here, there = quiet.boxes
    wait_until(lambda: state_of(quiet, 1)["State"] == "ok", LONG_S, "it tells")
    there.host.end_driver(signal.SIGKILL)
    wait_until(lambda: state_of(quiet, 1)["State"] == "silent", LONG_S, "it is missed")
    found = picture(here.host)
    other = state_of(quiet, 1)
    assert other["Problems"]
    assert other["AgeSeconds"] > 0
    # What it told last is still there.
    assert of(found, there, other["Id"])
    there.host.start_driver()
    wait_until(lambda: there.host.status()["recovery"] == "done", LONG_S, "it reads etcd")
    wait_until(lambda: state_of(quiet, 1)["State"] == "ok", LONG_S, "it tells again")


def test_without_etcd_this_host_is_still_there(quiet: World) -> None:
    here, _ = quiet.boxes
    wait_until(lambda: states(picture(here.host)) == ["here", "ok"], LONG_S, "both tell")
    with quiet.cut_off(1):
        wait_until(lambda: states(picture(here.host)) == ["here", "silent"], LONG_S,
                   "the other one cannot be asked")
        found = picture(here.host)
        assert any("etcd" in said for said in found["Hosts"][0]["Problems"])
        assert any("cannot be asked" in said for said in found["Hosts"][1]["Problems"])
        assert of(found, here, found["Host"])
    wait_until(lambda: states(picture(here.host)) == ["here", "ok"], LONG_S, "both tell again")
    quiet.wait_converged()


@pytest.mark.parametrize("value", ["garbage", '{"schema":2}', '{"schema":1,"host":"x"}'],
                         ids=["garbage", "newer", "another's"])
def test_a_summary_that_cannot_be_read(quiet: World, value: str) -> None:
    here, _ = quiet.boxes
    wait_until(lambda: states(picture(here.host)) == ["here", "ok"], LONG_S, "both tell")
    other = state_of(quiet, 1)["Id"]

    def spoilt() -> bool:
        # Its next summary takes this one's place.
        quiet.cluster.etcdctl("put", keys.summary(other), value)
        found = state_of(quiet, 1)
        return found["State"] == "unknown" and "in etcd" in found["Problems"][0]

    wait_until(spoilt, LONG_S, "it cannot be read")
    assert of(picture(here.host), here, picture(here.host)["Host"])
    wait_until(lambda: state_of(quiet, 1)["State"] == "ok", LONG_S, "the next one can")


def test_nobody_watches_and_nothing_is_written(quiet: World) -> None:
    before = revision(quiet)
    quiet.assert_new_connections()
    assert told(quiet) == []
    assert revision(quiet) == before
