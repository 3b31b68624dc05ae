"""Tests that containers notice nothing when the driver is killed, stopped and upgraded."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.datapath.loading.layout import LAYOUT
from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import address_of, call, create_network, start
from tests.lab.rig.engine import logs
from tests.lab.rig.hosts import LAB_SH, PROJECT, START_S, Host, Program, run
from tests.lab.rig.traffic import NOT_HOST_PATH, VXLAN_PORT, segments_lost
from tests.support.run.wait import wait_until

GOES_ON_S = 60
ENOUGH = 50  # new connections to make in each state


class Load:
    """A container that talks to another without a pause; see programs/steady.py."""

    def __init__(self, host: Host, address: str, name: str = "load") -> None:
        self._host, self._name = host, name
        start(host, name, "python3", "/programs/steady.py", address, "7000")

    def made(self) -> int:
        """Return the connections so far, in all lives of the container; it reports each tenth."""
        lines = logs(self._host, self._name).splitlines()
        return 10 * sum(line.isdigit() for line in lines)

    def goes_on(self) -> None:
        """Wait until ENOUGH more connections are made."""
        goal = self.made() + ENOUGH
        wait_until(lambda: self.made() >= goal, GOES_ON_S, f"{goal} connections are made")

    def end(self) -> dict[str, object]:
        self._host.docker("stop", self._name)
        report = json.loads(self._host.docker("logs", self._name).splitlines()[-1])
        assert isinstance(report, dict)
        print(report)
        return report


def not_host_path(host: Host) -> dict[str, int]:
    """Return the counters of other than host connections; counters outlive the driver."""
    return {name: count for name, count in host.counters().items()
            if name in NOT_HOST_PATH and name != "late_ack"}


def lost(h1: Host, h2: Host) -> int:
    """Count the load's segments, in both directions, that did not arrive."""
    return segments_lost(h1, "load") + segments_lost(h2, "server")


@pytest.fixture
def load(h1: Host, h2: Host) -> Iterator[Load]:
    """A load from h1 to h2; checks that it is on the host path and loses nothing."""
    create_network([h1, h2])
    address = start(h2, "server", *SERVE)
    load = Load(h1, address)
    load.goes_on()
    before = {host: not_host_path(host) for host in (h1, h2)}
    lost_before = lost(h1, h2)
    with h1.capture(only=f"udp port {VXLAN_PORT}") as capture:
        yield load
    for host in (h1, h2):
        host.start_driver()
        assert not_host_path(host) == before[host], host
    assert lost(h1, h2) == lost_before
    assert load.end()["failures"] == []
    assert capture.packets() == []


def test_a_loss_would_be_noticed(h1: Host, h2: Host) -> None:
    """With the cable out for a while, the checks of the other tests must see losses."""
    create_network([h1, h2])
    load = Load(h1, start(h2, "server", *SERVE))
    load.goes_on()
    before = lost(h1, h2)
    for state in ("down", "up"):
        run([str(LAB_SH), "link", h2.name, state], env=h2.lab.env)
        if state == "down":
            wait_until(lambda: lost(h1, h2) > before, GOES_ON_S, "segments are sent again")
    load.goes_on()
    assert lost(h1, h2) > before
    assert load.end()["failures"] == []


def test_killed_under_load_and_started_again(load: Load, h1: Host, h2: Host) -> None:
    for host in (h1, h2):
        host.kill_driver()
    load.goes_on()
    for host in (h1, h2):
        host.start_driver()
    load.goes_on()


def test_stopped_under_load_and_started_again(load: Load, h1: Host, h2: Host) -> None:
    for host in (h1, h2):
        host.stop_driver()
    load.goes_on()
    for host in (h1, h2):
        host.start_driver()
    load.goes_on()


def test_killed_again_and_again_while_it_starts(load: Load, h1: Host) -> None:
    """Whatever step of its start it dies at, traffic goes on."""
    for tenth in range(1, 12, 2):
        h1.kill_driver()
        program = start_from(h1, PROJECT)
        with pytest.raises(subprocess.TimeoutExpired):
            program.join(tenth / 5)
        program.end(signal.SIGKILL)
        load.goes_on()


def start_from(host: Host, project: Path) -> Program:
    """Start the driver of the source in `project`, without waiting until it answers."""
    begin = (f"import sys; sys.path[0] = {str(project)!r}; "
             "from driver.__main__ import main; sys.exit(main())")
    return Program(host, [str(PROJECT / ".venv/bin/python"), "-c", begin, "serve", "--etcd",
                          host.lab.etcd_url], host.driver_log)


def start_answering(host: Host, project: Path) -> None:
    host.driver = start_from(host, project)
    wait_until(host._driver_answers, START_S, "the new driver answers")


def copy_project(to: Path) -> None:
    for part in ("driver", "kernel"):
        shutil.copytree(PROJECT / part, to / part)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


def attached(host: Host) -> dict[str, tuple[int, int]]:
    """Return each pinned bpf_link, with its id and its program's."""
    links = json.loads(host.exec("bpftool", "--json", "--bpffs", "link", "show"))
    return {pin: (link["id"], link["prog_id"]) for link in links
            for pin in link.get("pinned", []) if "/slim/" in pin}


def test_upgraded_to_other_programs_in_place(load: Load, h1: Host, tmp_path: Path) -> None:
    """Each bpf_link stays and gets another program: programs run at every moment."""
    copy_project(tmp_path)
    change(tmp_path / "kernel/maps.c", "*counter += 1;", "*counter += 1000000;")
    before = attached(h1)
    assert len([pin for pin in before if "netns-" in pin]) == 1  # one sandbox's, and the host's
    h1.kill_driver()
    start_answering(h1, tmp_path)
    wait_until(lambda: all(attached(h1)[pin][1] != program
                           for pin, (_, program) in before.items()), 20,
               "all links have programs of the new driver")
    assert {pin: link for pin, (link, _) in attached(h1).items()} == {
        pin: link for pin, (link, _) in before.items()}
    load.goes_on()
    assert h1.counters()["connected"] > ENOUGH * 1000000
    h1.stop_driver()  # and back again
    h1.start_driver()
    load.goes_on()


# Maps that the test changes, each with the struct that it holds.
STRUCTS = {"flows": "flow", "sandboxes": "sandbox", "veths": "veth", "directory": "location",
           "directory6": "location"}


@pytest.fixture
def back_again(h1: Host, h2: Host) -> Iterator[None]:
    """Afterwards remove h1's layout, whichever it is, by the command that an older driver names."""
    yield
    if h1.driver is not None and h1.driver.running:
        h1.docker("rm", "-f", "load")
        h1.stop_driver()
    h1.exec(str(PROJECT / ".venv/bin/python"), "-m", "driver", "cleanup")
    h1.start_driver()
    start(h1, "again")
    assert call(h1, "again", address_of(h2, "server")).server_local[1] == 7000


@pytest.mark.usefixtures("back_again")
@pytest.mark.parametrize("changed", [("flows",), tuple(STRUCTS)], ids=["flows", "most"])
def test_upgraded_to_another_layout_of_maps(changed: tuple[str, ...], h1: Host, h2: Host,
                                            tmp_path: Path) -> None:
    """Changed maps are filled from etcd and live sockets before the new programs take over."""
    create_network([h1, h2])
    load = Load(h1, start(h2, "server", *SERVE))
    load.goes_on()
    before = not_host_path(h1) | {"foreign_flow": 0}
    copy_project(tmp_path)
    newer = LAYOUT + 1
    change(tmp_path / "driver/datapath/loading/layout.py", f"LAYOUT = {LAYOUT}",
           f"LAYOUT = {newer}")
    change(tmp_path / "driver/datapath/loading/layout.py", "frozenset[str]] = {\n",
           f"frozenset[str]] = {{\n    {newer}: frozenset({changed}),\n")
    header = tmp_path / "kernel/include/slim.h"
    for name in sorted({STRUCTS[each] for each in changed}):
        change(header, f"\nstruct {name} {{\n", f"\nstruct {name} {{\n    __u64 new_here;\n")
    h1.kill_driver()
    start_answering(h1, tmp_path)
    wait_until(lambda: "taken over from" in h1.driver_log.read_text(), START_S, "the hand-over")
    load.goes_on()
    # A connection made at the moment of the change sends its SYN again.
    assert not_host_path(h1) | {"foreign_flow": 0} == before
    assert {pin.split("/")[5] for pin in attached(h1)} == {f"v{newer}"}
    h1.stop_driver()

    older = start_from(h1, PROJECT)  # it must not touch what it does not understand
    assert older.join(START_S) == 1
    assert "a newer slim has run on this host" in older.output()
    load.goes_on()
    assert load.end()["failures"] == []
    start_answering(h1, tmp_path)
