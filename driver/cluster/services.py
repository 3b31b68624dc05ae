"""Starts and stops the programs of a host: as units of systemd, or with the small supervisor.

The names are `slim` (the driver), `slim-etcd` and `slim-cluster` (the keeper).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Protocol

from driver.cluster.programs import ProgramFailed, run
from driver.errors import SettingsError

DRIVER: Final = "slim"
ETCD: Final = "slim-etcd"
KEEPER: Final = "slim-cluster"
STOP_S: Final = 60.0
UNIT_STOP_S: Final = 100.0  # systemd kills what does not end within 90
START_S: Final = 10.0  # for the supervisor, not for what it runs
LOOK_S: Final = 0.05


class Services(Protocol):
    """The programs.  All methods: ProgramFailed."""

    def start(self, name: str) -> None:
        """Start it now and at each boot; one that runs goes on."""

    def restart(self, name: str) -> None:
        """Start it anew, with what its files say now; also at each boot."""

    def stop(self, name: str) -> None:
        """End it, now and for boots to come; one that does not run is no error."""

    def log_of(self, name: str) -> str:
        """Return what a person types to see its log."""


def services_here() -> Services:
    """Return how programs run on this machine.  Error: SettingsError."""
    if Path("/run/systemd/system").is_dir():  # as sd_booted(3)
        return Systemd()
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    if not (scripts / "supervise.sh").exists():
        raise SettingsError("no systemd runs here, and this is no checkout of slim: nothing could "
                            "keep etcd and the driver running")
    return Supervised(scripts)


class Systemd:
    """Units of systemd, which the package or `make up` has installed."""

    def start(self, name: str) -> None:
        """See Services."""
        run(["systemctl", "--quiet", "enable", name])
        run(["systemctl", "--no-block", "start", name])

    def restart(self, name: str) -> None:
        """See Services."""
        run(["systemctl", "--quiet", "enable", name])
        run(["systemctl", "reset-failed", name])
        # Who then asks whether it answers must not hear the one of before.
        run(["systemctl", "stop", name], timeout_s=UNIT_STOP_S)
        run(["systemctl", "--no-block", "start", name])

    def stop(self, name: str) -> None:
        """See Services."""
        run(["systemctl", "--quiet", "disable", name])
        run(["systemctl", "stop", name], timeout_s=UNIT_STOP_S)

    def log_of(self, name: str) -> str:
        """See Services."""
        return f"journalctl -u {name}"


class Supervised:
    """Processes of scripts/supervise.sh; scripts/common.sh has the same names and files."""

    def __init__(self, scripts: Path, run_folder: Path = Path("/run/slim"),
                 logs: Path = Path("/var/log/slim")) -> None:
        self._scripts, self._run, self._logs = scripts, run_folder, logs
        slim = str(scripts / "slim")
        self._commands = {
            DRIVER: ("slim", [slim, "serve"]), KEEPER: ("cluster", [slim, "cluster", "serve"]),
            ETCD: ("etcd", ["nice", "-n", "-10", "setpriv", "--no-new-privs", "--inh-caps=-all",
                            "--bounding-set=-all", str(scripts / "embedded-etcd.sh"),
                            "/var/lib/slim/etcd", "23790"])}

    def start(self, name: str) -> None:
        """See Services."""
        process, command = self._commands[name]
        if self._held(process):
            return
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        supervisor = subprocess.Popen(  # noqa: S603 - an argument vector, and no shell
            # Not with the etcd that scripts/slim gave this command: the folder says which now.
            ["/usr/bin/env", "-u", "SLIM_ETCD", str(self._scripts / "supervise.sh"), process,
             str(self._run), str(self._logs / f"{process}.log"), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/")
        until_s = time.monotonic() + START_S
        # Until it can be stopped; one that finds another one ends.  Looking for its lock meanwhile
        # could keep it from that.
        while (supervisor.poll() is None and self._pid_of(process) != supervisor.pid
               and time.monotonic() < until_s):
            time.sleep(LOOK_S)

    def restart(self, name: str) -> None:
        """See Services."""
        self.stop(name)
        self.start(name)

    def stop(self, name: str) -> None:
        """See Services."""
        process, _ = self._commands[name]
        until_s = time.monotonic() + STOP_S
        while self._held(process):
            if time.monotonic() > until_s:
                raise ProgramFailed(f"{process} does not stop: see {self.log_of(name)}")
            if pid := self._pid_of(process):
                with contextlib.suppress(ProcessLookupError):  # it is just ending
                    os.kill(pid, signal.SIGTERM)
            time.sleep(LOOK_S)

    def log_of(self, name: str) -> str:
        """See Services."""
        return str(self._logs / f"{self._commands[name][0]}.log")

    def _pid_of(self, process: str) -> int:
        """Return what its supervisor has noted; 0: it is just starting, or ending."""
        try:
            return int((self._run / f"{process}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _held(self, process: str) -> bool:
        """Tell whether its supervisor lives: it holds its lock as long as it does."""
        try:
            lock = os.open(self._run / f"{process}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        return False
