"""Tests how programs are started and stopped: under the real supervisor, and what systemd is told.

The supervisor runs a small script in place of slim.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.cluster import services
from driver.cluster.programs import ProgramFailed
from driver.cluster.services import DRIVER, ETCD, KEEPER, Supervised, Systemd
from driver.errors import SettingsError
from tests.support.run.wait import wait_until

# They outlive whoever has started them.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

# Notes each start: its process, SLIM_ETCD and arguments.  `deaf`: it does not end when it is told.
SLIM = """#!/bin/sh
here=$(dirname "$0")
[ ! -e "$here/deaf" ] || trap '' TERM
echo "$$ ${SLIM_ETCD-none} $*" >> "$here/started"
[ ! -e "$here/status" ] || exit "$(cat "$here/status")"
while :; do read -r line < "$here/fifo" || :; done
"""


class Programs:
    """The supervisor's folders."""

    def __init__(self, path: Path, project: Path) -> None:
        self.scripts, self.run, self.logs = path / "scripts", path / "run", path / "logs"
        self.scripts.mkdir()
        (self.scripts / "supervise.sh").symlink_to(project / "scripts/supervise.sh")
        (self.scripts / "slim").write_text(SLIM)
        (self.scripts / "slim").chmod(0o755)
        os.mkfifo(self.scripts / "fifo")  # nobody writes to it
        self.services = Supervised(self.scripts, self.run, self.logs)

    def started(self, count: int) -> list[list[str]]:
        """Wait for so many starts; return them: process, SLIM_ETCD, arguments."""
        def read() -> list[list[str]]:
            file = self.scripts / "started"
            found = [line.split() for line in file.read_text().splitlines()] if (
                file.exists()) else []
            return found if len(found) >= count else []

        found = wait_until(read, 10, f"{count} starts")
        assert len(found) == count
        return found

    def supervisor(self, process: str) -> int:
        return int((self.run / f"{process}.pid").read_text())


def lives(process: int | str) -> bool:
    """Whether it runs; a child of ours that has ended is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def programs(tmp_path: Path, project: Path) -> Iterator[Programs]:
    made = Programs(tmp_path, project)
    yield made
    for file in made.run.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    if (made.scripts / "started").exists():
        for pid, *_ in made.started(len((made.scripts / "started").read_text().splitlines())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def test_start_and_stop(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the cluster says where etcd is, and not who has called."""
    monkeypatch.setenv("SLIM_ETCD", "http://127.0.0.1:23790")
    programs.services.start(DRIVER)
    programs.services.start(KEEPER)
    found = {tuple(rest): pid for pid, *rest in programs.started(2)}
    assert found.keys() == {("none", "serve"), ("none", "cluster", "serve")}
    programs.services.stop(KEEPER)
    assert not lives(found["none", "cluster", "serve"])
    assert lives(found["none", "serve"])
    programs.services.stop(DRIVER)
    assert not lives(found["none", "serve"])
    assert programs.services.log_of(KEEPER) == str(programs.logs / "cluster.log")
    assert "stopped" in (programs.logs / "cluster.log").read_text()


def test_one_that_runs_goes_on(programs: Programs) -> None:
    programs.services.start(DRIVER)
    programs.services.start(DRIVER)
    Supervised(programs.scripts, programs.run, programs.logs).start(DRIVER)
    [[pid, *_]] = programs.started(1)
    assert lives(pid)


def test_restart(programs: Programs) -> None:
    programs.services.restart(DRIVER)  # of one that does not run
    programs.started(1)
    programs.services.restart(DRIVER)
    first, second = programs.started(2)
    assert not lives(first[0])
    assert lives(second[0])


def test_stop_right_after_start(programs: Programs) -> None:
    """The supervisor is just beginning: it must not begin after the stop."""
    programs.services.start(DRIVER)
    supervisor = programs.supervisor("slim")
    programs.services.stop(DRIVER)
    assert not lives(supervisor)
    file = programs.scripts / "started"
    assert not file.exists() or not any(lives(line.split()[0])
                                        for line in file.read_text().splitlines())


def test_stop_of_one_that_does_not_run(programs: Programs) -> None:
    for name in (DRIVER, KEEPER, ETCD):
        programs.services.stop(name)  # nothing has ever run
    programs.services.start(DRIVER)
    [[pid, *_]] = programs.started(1)
    supervisor = programs.supervisor("slim")
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not lives(supervisor) and not lives(pid), 10, "the end of both")
    # Its note stays, and the number may be another process's by now: here, ours.
    (programs.run / "slim.pid").write_text(f"{os.getpid()}\n")
    programs.services.stop(DRIVER)
    programs.services.start(DRIVER)
    assert programs.supervisor("slim") not in (supervisor, os.getpid())
    programs.started(2)


def test_one_that_gives_up(programs: Programs) -> None:
    """Its program says that the same start would fail again."""
    (programs.scripts / "status").write_text("2")
    programs.services.start(DRIVER)
    programs.started(1)
    wait_until(lambda: not (programs.run / "slim.pid").exists(), 10, "the supervisor's end")
    (programs.scripts / "status").unlink()
    programs.services.stop(DRIVER)
    programs.services.start(DRIVER)
    programs.started(2)


def test_one_that_does_not_stop(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STOP_S", 0.2)
    (programs.scripts / "deaf").touch()
    programs.services.start(DRIVER)
    [[pid, *_]] = programs.started(1)
    with pytest.raises(ProgramFailed, match=r"slim does not stop: see .*/slim\.log"):
        programs.services.stop(DRIVER)
    os.kill(int(pid), signal.SIGKILL)
    programs.services.stop(DRIVER)


def test_etcd_runs_as_make_up_starts_it(programs: Programs, project: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/up.sh has the same names: each finds what the other has started."""
    process, command = programs.services._commands[ETCD]
    text = " ".join((project / "scripts/up.sh").read_text().replace("\\\n", " ").split())
    written = " ".join([process, *command]).replace(
        str(programs.scripts), '"$PROJECT/scripts').replace("embedded-etcd.sh", 'embedded-etcd.sh"')
    assert written.replace("/var/lib/slim/etcd", '"$STATE/etcd"').replace(
        "23790", '"$ETCD_PORT"') in text


def test_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(services, "run", lambda argv, **_: done.append(" ".join(argv)))
    units = Systemd()
    units.start(ETCD)
    assert done == ["systemctl --quiet enable slim-etcd", "systemctl --no-block start slim-etcd"]
    done.clear()
    units.restart(KEEPER)
    assert done == ["systemctl --quiet enable slim-cluster", "systemctl reset-failed slim-cluster",
                    "systemctl stop slim-cluster", "systemctl --no-block start slim-cluster"]
    done.clear()
    units.stop(DRIVER)
    assert done == ["systemctl --quiet disable slim", "systemctl stop slim"]
    assert units.log_of(DRIVER) == "journalctl -u slim"


def test_what_runs_programs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    is_dir, exists = Path.is_dir, Path.exists
    systemd = True
    monkeypatch.setattr(Path, "is_dir", lambda path: systemd if str(path) == "/run/systemd/system"
                        else is_dir(path))
    assert isinstance(services.services_here(), Systemd)
    systemd = False
    assert isinstance(services.services_here(), Supervised)
    monkeypatch.setattr(Path, "exists", lambda path: path.name != "supervise.sh" and exists(path))
    with pytest.raises(SettingsError, match="no systemd runs here"):
        services.services_here()
