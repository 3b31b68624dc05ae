"""Tests `pip install .`: a whole `slim` where bcc is there, and a clear word where it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.rig.hosts import PROJECT

PARTS = ("driver", "kernel", "pyproject.toml", "requirements.txt")
LEFT_OUT = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of Debian's Python with slim in it; the checkout has gone."""
    folder = tmp_path_factory.mktemp("pip")
    checkout, target = folder / "checkout", folder / "venv"
    for part in PARTS:
        if (PROJECT / part).is_dir():
            shutil.copytree(PROJECT / part, checkout / part, ignore=LEFT_OUT)
        else:
            shutil.copy(PROJECT / part, checkout / part)
    # Not .venv's Python, of which it would be a part.
    said = subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", target],
                          capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    said = subprocess.run([target / "bin/pip", "install", "-q", checkout], capture_output=True,
                          text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    shutil.rmtree(checkout)
    return target


def doctor(installed: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return what `slim doctor` says of each thing."""
    said = subprocess.run([installed / "bin/slim", "doctor"], cwd="/", capture_output=True,
                          text=True, check=False, env={"PATH": os.environ["PATH"], **env})
    return {line.split()[1]: line for line in said.stdout.splitlines() if len(line.split()) > 1}


def test_it_is_whole(installed: Path) -> None:
    said = doctor(installed, {})
    for name in ("bcc", "headers", "hook"):
        assert said[name].startswith("ok"), said[name]
    helped = subprocess.run([installed / "bin/slim", "serve", "--help"], cwd="/",
                            capture_output=True, text=True, check=False)
    assert "--etcd" in helped.stdout, helped.stderr


def test_without_bcc_it_says_what_is_missing(installed: Path, tmp_path: Path) -> None:
    """As in a virtual environment without Debian's packages, or of another Python."""
    settings = installed / "pyvenv.cfg"
    before = settings.read_text()
    settings.write_text(before.replace("= true", "= false"))
    try:
        said = doctor(installed, {"XDG_CACHE_HOME": str(tmp_path)})
    finally:
        settings.write_text(before)
    for name in ("bcc", "hook"):
        assert said[name].startswith("FAIL"), said[name]
        assert "apt-get install python3-bpfcc" in said[name]
        assert "--system-site-packages" in said[name]
    assert said["headers"].startswith("ok"), said["headers"]
