"""Tests a second driver on one host, with other folders: it must refuse, and change nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.support.fakes import dockerd
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns, require_root
from tests.support.world.served import (
    Host,
    attach,
    create_network,
    delete_network,
    detach,
    one_host,
)

pytestmark = pytest.mark.timeout(600)
MakeNetns = Callable[[str], Netns]


@pytest.fixture
def host(make_netns: MakeNetns, tmp_path: Path) -> Iterator[Host]:
    require_root()
    with one_host(make_netns, tmp_path, Host) as made:
        made.start_driver()
        made.start_etcd()
        yield made


def cli(host: Host, command: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """Run `slim COMMAND` with the host's settings, but for the chosen ones."""
    options = {"underlay": "eth0", "cgroup": str(host.cgroup), "bpffs": str(host.pins),
               "socket": host.socket, "state": str(host.folder / "state"), "config": os.devnull,
               **chosen}
    return subprocess.run(host.netns.command(
        sys.executable, "-m", "driver", command, *host.etcd_options,
        *(text for name, value in options.items() for text in (f"--{name}", value))),
        cwd=PROJECT, check=False, capture_output=True, text=True, timeout=120)


def kernel(host: Host) -> object:
    """Return what a second driver would change."""
    return (host.netns.ip("-d -o link show"), sorted(map(str, host.pins.rglob("*"))),
            host.netns.run("nft", "list", "tables").stdout)


def test_a_second_driver_touches_nothing(host: Host, tmp_path: Path) -> None:
    with dockerd.sandbox("box") as box:
        create_network(host)
        address = attach(host, box)
        wait_until(lambda: host.status()["sandboxes"].startswith("1 "), 60, "it is finished")
        other = {name: str(tmp_path / f"other-{name}") for name in ("state", "socket", "bpffs")}
        other["bpffs"] = str(host.pins.parent / f"{host.pins.name}-other")
        assert host.driver is not None
        before = kernel(host)
        for command in ("serve", "cleanup"):
            for names in (("state", "socket"), ("state", "socket", "bpffs")):
                refused = cli(host, command, **{name: other[name] for name in names})
                assert refused.returncode, refused
                assert f"(process {host.driver.pid})" in refused.stderr, refused
        assert kernel(host) == before

        # Also while the first one is stopped: what it left is its own.
        assert not host.end_driver(signal.SIGTERM)
        before = kernel(host)
        (Path(other["state"])).mkdir(exist_ok=True)
        (Path(other["state"]) / "host-id").write_text("f" * 32 + "\n")
        mine = (host.folder / "state" / "host-id").read_text().strip()
        for command in ("serve", "cleanup"):
            refused = cli(host, command, state=other["state"], socket=other["socket"])
            assert refused.returncode, refused
            assert mine in refused.stderr, refused
            refused = cli(host, command, bpffs=other["bpffs"])
            assert refused.returncode, refused
            assert f"--bpffs {host.pins}" in refused.stderr, refused
        assert kernel(host) == before
        assert not Path(other["bpffs"]).exists()

        # The state folder is lost, but the interfaces' aliases still name their owner.
        shutil.rmtree(host.folder / "state")
        host.start_driver()
        wait_until(lambda: host.status()["recovery"].startswith("done"), 60, "it has read etcd")
        assert (host.folder / "state" / "host-id").read_text().strip() == mine
        assert host.links()
        detach(host, address)
        delete_network(host)
        assert not host.end_driver(signal.SIGTERM)
        assert cli(host, "cleanup").returncode == 0
        assert "slim-vxlan" not in host.netns.ip("link show")
