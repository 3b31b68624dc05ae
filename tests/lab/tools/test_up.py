"""Tests `make up` and `make down` as users type them, on a lab host without systemd."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.store.format import keys
from tests.lab.conftest import BUSYBOX
from tests.lab.docker.test_docker import create_network
from tests.lab.rig import images
from tests.lab.rig.hosts import LAB_SH, PROJECT, CommandFailed, Host, lab_of_this_process, run
from tests.support.run.wait import wait_until
from tests.support.world.etcd import EtcdCluster
from tests.support.world.netns import Netns

RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"


@pytest.fixture(scope="module")
def bare_host() -> Iterator[Host]:
    """A host whose dockerd does not run yet; its image store has busybox."""
    with lab_of_this_process("slimup") as lab:
        host = lab.up(1)[0]
        lab.load_image(BUSYBOX, images.busybox())
        run([str(LAB_SH), "stop", host.name], env=lab.env)
        yield host


def make(host: Host, *argv: str) -> str:
    # Not /usr/local/bin for the command's link: that folder is the machine's own.
    return host.exec("env", "-C", str(PROJECT), "UP_LINK=/run/slim-command", "sh", "-c",
                     'exec make "$@" 2>&1', "make", *argv, timeout_s=170)


def pids(host: Host) -> str:
    return host.exec("sh", "-c", "cat /run/slim/*.pid")


def test_up_twice_then_down(bare_host: Host) -> None:
    host = bare_host
    host.exec("sh", "-c", f"echo 8080 > {RESERVED}")
    said = make(host, "up").splitlines()
    assert len(said) == 3, said
    assert "docker network create" in said[0]
    before = pids(host)
    make(host, "up")
    assert pids(host) == before, "a second run starts nothing again"

    host.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet",
                "10.32.0.0/16", "app")
    assert "10.32." in host.docker("run", "--rm", "--network", "app", BUSYBOX, "ip", "addr")
    host.docker("network", "rm", "app")

    host.exec("/run/slim-command", "doctor")
    assert host.exec("cat", RESERVED) == "8080,61000-65535\n"
    make(host, "down")
    assert host.exec("cat", RESERVED) == "8080\n"
    for left in ("/run/slim", "/run/docker/plugins/slim.sock", "/run/slim-command",
                 "/etc/slim/up.env"):
        with pytest.raises(CommandFailed):
            host.exec("ls", left)
    # The kernel itself puts two files named *.debug there.
    assert host.exec("find", "/sys/fs/bpf", "-mindepth", "1", "!", "-name", "*.debug") == ""
    assert "slim" not in host.exec("ip", "-o", "link")
    host.exec("ls", "/var/lib/slim/etcd")  # the data stays
    with pytest.raises(CommandFailed):
        host.exec("pgrep", "-x", "etcd|dockerd")

    make(host, "up")  # with the data from before
    make(host, "down", "PURGE=1")
    assert host.exec("ls", "/var/lib/slim") == ""


def etcd_of(host: Host, folder: Path) -> EtcdCluster:
    folder.mkdir()
    return EtcdCluster(folder, address=str(host.lab.gateway),
                       netns=Netns(f"{host.lab.name}-fab"), count=1)


def test_up_with_another_etcd_moves_what_runs(bare_host: Host, tmp_path: Path) -> None:
    host = bare_host
    # Without etcd the driver starts, and says that etcd is missing.
    said = make(host, "up", "ETCD=http://198.18.0.254:2399")
    assert re.search(r"FAIL +etcd .*198\.18\.0\.254:2399", said), said
    with pytest.raises(CommandFailed, match=r"etcd.*198\.18\.0\.254:2399"):
        host.exec("/run/slim-command", "doctor")
    with etcd_of(host, tmp_path / "first") as first, etcd_of(host, tmp_path / "second") as second:
        make(host, "up", f"ETCD={first.urls[0]}")
        create_network([host])
        for name, *command in (("server", "httpd", "-f", "-h", "/etc"), ("client", "sleep", "900")):
            host.docker("run", "-d", "--init", "--name", name, "--network", "app", BUSYBOX,
                        *command)
        server = host.docker("inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}",
                             "server")

        def talk() -> None:
            asked = f"printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | timeout 5 nc {server} 80"
            assert "root" in host.docker("exec", "client", "sh", "-c", asked)

        talk()
        make(host, "up", f"ETCD={second.urls[0]}")
        talk()
        wait_until(lambda: len(second.entries(keys.ENDPOINTS)) == 2, 60, "both are entered there")
        talk()
        host.docker("rm", "-f", "server", "client")
        host.docker("network", "rm", "app")
        make(host, "down")
