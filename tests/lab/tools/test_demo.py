"""Tests `make demo` as users run it, to its end and interrupted: it must remove its lab."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.rig.hosts import PROJECT
from tests.support.run.wait import wait_until

DEMO = [sys.executable, "-u", "-m", "bench.demo", "--rounds", "1", "--seconds", "0.3",
        "--starts", "1"]


def left_of(demo: subprocess.Popen[str]) -> list[str]:
    """Return the namespaces, folders, cgroups and processes that its lab left."""
    name = f"slimdemo{demo.pid}"
    found = [str(path) for top in ("/run/netns", "/var/lib", "/run") for path in Path(top).glob(
        f"{name}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"{name}*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name in path.read_text(errors="replace"):
                found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return found


def test_to_its_end() -> None:
    with subprocess.Popen(DEMO, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as demo:
        output, _ = demo.communicate(timeout=170)
    assert demo.returncode == 0, output
    assert "packets of plain TCP, 0 of VXLAN" in output
    assert "| one stream, Gbit/s |" in output
    assert "fallbacks to the overlay: 0" in output
    assert left_of(demo) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """The signal comes while dockerds start, and while containers run."""
    log = tmp_path / "log"
    with log.open("w") as into, subprocess.Popen(
            DEMO, cwd=PROJECT, stdout=into, stderr=into, text=True) as demo:
        if number == signal.SIGTERM:
            wait_until(lambda: left_of(demo) != [] or demo.poll() is not None, 60, "a lab begins")
        else:
            wait_until(lambda: "saw" in log.read_text() or demo.poll() is not None, 90,
                       "containers have talked")
        assert left_of(demo) != []
        demo.send_signal(number)
        assert demo.wait(60) != 0, log.read_text()
    assert left_of(demo) == []
