"""Tests `slim support` on a host with a real driver, and on one whose driver has ended."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns, require_root
from tests.support.world.served import Host, attach, create_network, one_host

TOKEN = "SLIM-1-3f9a01bcdd-abcdefgh"
SECRET = "correct horse battery"


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[Host]:
    require_root()
    with one_host(make_netns, tmp_path, Host) as made:
        made.start_driver()
        made.start_etcd()
        yield made


def support(host: Host, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        host.netns.command(sys.executable, "-m", "driver", "support", *host.etcd_options,
                           "--cgroup", str(host.cgroup), "--bpffs", str(host.pins),
                           "--socket", host.socket, "--state", str(host.folder / "state"),
                           "--docker-socket", "/nonexistent", "--config", "/dev/null", str(path)),
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)


def texts(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


def test_a_bundle_of_a_host_whose_driver_runs_and_ends(
        host: Host, make_netns: Callable[[str], Netns], tmp_path: Path) -> None:
    create_network(host)
    attach(host, make_netns("box"))
    wait_until(lambda: host.status()["outstanding"].startswith("nothing"), 30, "all is done")
    # What a person mistyped stands in the log.
    said = host.dockerd.raw("NetworkDriver.CreateNetwork", json.dumps(
        {"NetworkID": "x", "Options": {"com.docker.network.generic": {f"slim.{TOKEN}": "1"}},
         "IPv4Data": [], "IPv6Data": []}).encode())
    assert said.json["Err"]
    (host.folder / "state" / "a-token").write_text(SECRET)
    path = tmp_path / "help.tar.gz"

    done = support(host, path)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = texts(path)
    for name, text in found.items():
        assert TOKEN not in text, name
        assert SECRET not in text, name
    failed = {name: text for name, text in found.items() if text.startswith("not to be had")}
    assert failed.keys() == {"docker.json"}, failed  # there is none
    assert "[left out]" in found["log"]
    assert "level=warning" in found["log"]
    assert json.loads(found["status.json"])["Status"]["recovery"] == "done"
    maps = {line.split()[0]: line.split() for line in found["maps"].splitlines()}
    assert maps["sandboxes"][5] == "1"
    assert int(maps["directory"][6]) > 0
    assert "198.18." in found["hosts"]
    assert "etcd" in found["doctor"]
    assert "slim_build_info" in found["metrics"]

    again = support(host, path)
    assert again.returncode == 1
    assert "is there already" in again.stderr

    assert host.end_driver(signal.SIGTERM) == 0
    later = tmp_path / "later.tgz"
    assert support(host, later).returncode == 0
    found = texts(later)
    assert "no driver answers" in found["status.json"]
    maps = {line.split()[0]: line.split() for line in found["maps"].splitlines()}
    assert maps["sandboxes"][5] == "1", "what runs is told without a driver, too"
    assert "198.18." in found["hosts"]
