"""Tests the doctor: what it reads from /proc, and that each fault fails its own line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from driver import doctor
from driver.client_ports import client_ports, parse_ports
from driver.commands.control_client import NotRunningError
from driver.doctor import checks, driver_says, host, network, outside, procfs
from driver.doctor.finding import CheckError
from driver.doctor.procfs import Bound, Mount
from driver.errors import SettingsError, SlimError
from driver.link.underlay import port_settings
from driver.link.underlay.port_settings import ReservedPorts
from driver.settings import PortRange, Settings

MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 master:1 - cgroup2 cgroup2 rw
32 22 0:28 / /mnt/with\\040blank rw - bpf bpf rw
33 22 0:29 / /mnt/with\\040blank rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(("release", "expected"), [
    ("6.1.0-18-amd64", (6, 1)), ("6.18.44-fc-v657", (6, 18)), ("10.0", (10, 0)), ("odd", (0, 0))])
def test_kernel_version(release: str, expected: tuple[int, int]) -> None:
    assert procfs.kernel_version(release) == expected


def test_mounts_with_blanks_options_and_one_over_another() -> None:
    mounts = procfs.parse_mounts(MOUNTINFO)
    assert Mount("/sys/fs/cgroup/unified", "cgroup2") in mounts
    assert [m.kind for m in mounts if m.path == "/mnt/with blank"] == ["tmpfs"]


@pytest.mark.parametrize(("path", "kind"), [
    ("/sys/fs/cgroup/unified/a/b", "cgroup2"), ("/sys/fs/cgroup/unified", "cgroup2"),
    ("/sys/fs/cgroup/unified-not", "tmpfs"), ("/", "ext4")])
def test_mount_of_takes_the_innermost(path: str, kind: str) -> None:
    found = procfs.mount_of(path, procfs.parse_mounts(MOUNTINFO))
    assert found is not None
    assert found.kind == kind


def test_bound_sockets_of_both_families() -> None:
    table = ("  sl  local_address rem_address   st\n"
             "   0: 0100007F:1F90 00000000:0000 0A 0 0\n"
             "   1: 0A0200C6:EE48 00000000:0000 01 0 0\n"
             "   2: 0000000000000000FFFF00000100007F:0050 0:0 0A 0 0\n")
    everyone = procfs.parse_bound(table, listening=False)
    assert [str(one.address) for one in everyone[:2]] == ["127.0.0.1", "198.0.2.10"]
    assert everyone[1].port == 61000
    listening = procfs.parse_bound(table, listening=True)
    assert [one.port for one in listening] == [8080, 80]
    assert all(one.loopback_only for one in listening)


def test_a_listener_of_this_process_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert Bound(ip_address("127.0.0.1"), port) in procfs.bound("tcp", listening=True)


@pytest.fixture
def quiet_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A host without listeners and reserved ports, with the usual ports for clients."""
    monkeypatch.setattr(port_settings, "ephemeral_ports", lambda: (32768, 60999))
    monkeypatch.setattr(ReservedPorts, "all", lambda self: set())
    monkeypatch.setattr(procfs, "bound", lambda protocol, listening=False: [])
    return monkeypatch


def test_port_range_beside_the_clients_ports(quiet_host: pytest.MonkeyPatch) -> None:
    assert network.check_ports(Settings()) == (
        "61000-65535, 4536 endpoints; source ports 32768-60999")


def test_port_range_among_the_clients_ports(quiet_host: pytest.MonkeyPatch, tmp_path: Path
                                            ) -> None:
    """The driver will reserve them; it is a fault if it runs and has not, or cannot."""
    settings = Settings(port_range=PortRange(60000, 62000), socket=str(tmp_path / "slim.sock"),
                        state=str(tmp_path))
    advice = r"sysctl -w net\.ipv4\.ip_local_reserved_ports=60000-60999,"
    quiet_host.setattr(ReservedPorts, "writable", lambda self: True)
    assert "reserves them at its start" in network.check_ports(settings)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(settings.socket)
        server.listen()
        with pytest.raises(CheckError, match=advice):
            network.check_ports(settings)
    quiet_host.setattr(ReservedPorts, "writable", lambda self: False)
    with pytest.raises(CheckError, match=advice):
        network.check_ports(settings)
    # The user follows the advice.
    quiet_host.setattr(ReservedPorts, "all", lambda self: parse_ports("60000-60999"))
    assert network.check_ports(settings).endswith("source ports 32768-59999")


def test_port_range_that_leaves_clients_none(quiet_host: pytest.MonkeyPatch) -> None:
    """The doctor says what the driver would say when it refuses to start."""
    with pytest.raises(SettingsError) as said:
        client_ports((1024, 65535), (32768, 60999), ())
    with pytest.raises(SettingsError) as doctors:
        network.check_ports(Settings(port_range=PortRange(1024, 65535)))
    assert str(doctors.value) == str(said.value)


@pytest.mark.parametrize(("address", "taken"), [
    ("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::ffff:127.0.0.1", False)])
def test_listener_in_the_port_range(quiet_host: pytest.MonkeyPatch, address: str,
                                    taken: bool) -> None:
    quiet_host.setattr(procfs, "bound", lambda protocol, listening=False: [
        Bound(ip_address(address), 61001)])
    if taken:
        with pytest.raises(CheckError, match="61001"):
            network.check_ports(Settings())
    else:
        network.check_ports(Settings())


def test_vxlan_port_in_use(quiet_host: pytest.MonkeyPatch) -> None:
    quiet_host.setattr(procfs, "bound", lambda protocol, listening=False: [
        Bound(ip_address("0.0.0.0"), 14789)])
    quiet_host.setattr(procfs, "has_link", lambda name: False)
    with pytest.raises(CheckError, match="14789"):
        network.check_vxlan_port(Settings())
    quiet_host.setattr(procfs, "has_link", lambda name: name == "slim-vxlan")
    assert network.check_vxlan_port(Settings())


def test_etcd_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(CheckError, match=url):
        outside.check_etcd(Settings(etcd=(url,)))


def test_cgroup_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="cgroup2"):
        host.check_cgroup(Settings(cgroup=str(tmp_path)))


def test_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "kernel_version", lambda release: (5, 10))
    with pytest.raises(CheckError, match=r"6\.1 or later"):
        host.check_kernel(Settings())


def test_one_line_each_and_the_exit_status(monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    def broken(settings: Settings) -> str:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(host, "hooks", lambda settings: iter(()))
    monkeypatch.setattr(checks, "told_by_driver", lambda settings: iter(()))
    monkeypatch.setattr(checks, "doubts", lambda settings: iter(()))
    monkeypatch.setattr(checks, "CHECKS", (("good", lambda settings: "fine"),))
    assert doctor.run_doctor(Settings()) == 0
    monkeypatch.setattr(checks, "CHECKS", (("bad", broken), ("good", lambda settings: "fine")))
    assert doctor.run_doctor(Settings()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "good", "fine"]
    assert lines[1].startswith("FAIL  bad")
    assert lines[1].endswith("RuntimeError: first; second")
    assert lines[2].split() == ["ok", "good", "fine"]


LOST = "registered; etcd did not know this host any more"
NOTHING = "nothing: every step has been done"
AGAIN = "link of endpoint 0123 since 2026-01-01 00:00:00 (2 attempts; the device is busy)"
APART = "1 out of reach, whose underlay is IPv4 and this host's IPv6 (web2 (192.0.2.2))"
BLOCKED = "1 on the host path, 1 blocked: web2 (192.0.2.2): it answers pings, but no SYN"


@pytest.mark.parametrize(("answer", "lines"), [
    ({"Status": {"peers": BLOCKED}},
     [f"FAIL  peers        {BLOCKED}: let TCP 61000-65535, and TCP option 254, pass between the "
      "hosts"]),
    ({"Status": {"hosts": f"2 registered, 0 absent, 0 gone; {APART}"}},
     [f"FAIL  hosts        2 registered, 0 absent, 0 gone; {APART}: name addresses of one family "
      "with --underlay on all hosts"]),
    ({"Status": {"hosts": "2 registered, 0 absent, 0 gone"}}, []),
    ({"Status": {"peers": "2 on the host path"}}, ["ok    peers        2 on the host path"]),
    ({"Status": {"registration": "registered", "outstanding": NOTHING, "peers": "0"}},
     ["ok    registration registered", f"ok    outstanding  {NOTHING}", "ok    peers        0"]),
    ({"Status": {"registration": "refused: copy", "outstanding": AGAIN}},
     ["FAIL  registration refused: copy", f"ok    outstanding  {AGAIN}"]),
    ({"Status": {"outstanding": f"STUCK: {AGAIN}"}},
     [f"FAIL  outstanding  STUCK: {AGAIN}: it is repeated until it works; is the cause something "
      "to mend?"]),
    ({"Status": {"registration": "registered; etcd did not know this host"}},
     ["FAIL  registration registered; etcd did not know this host"]),
    ({"Status": {"registration": f"{LOST}: it had 3 endpoints", "records": "IN DOUBT: one"}},
     [f"FAIL  registration {LOST}: it had 3 endpoints"]),
    ({"Status": {"registration": f"{LOST}: it had 3 endpoints",
                 "records": "all of this host's is in etcd; 9 entered again since the start"}},
     [f"ok    registration {LOST}: it had 3 endpoints"]),
    ({"Status": {"registration": "registered; a copy", "records": "all of this host's is in etcd"}},
     ["FAIL  registration registered; a copy"]),
    ({"Status": {}}, []),  # an older driver
    (NotRunningError("nobody"), []),
    (SlimError("no access to it"), ["FAIL  peers        no access to it"]),
], ids=["blocked", "apart", "together", "open", "well", "refused", "stuck", "lost",
        "lost, in doubt", "entered again", "a copy", "an older driver", "no driver", "no access"])
def test_what_the_running_driver_says(monkeypatch: pytest.MonkeyPatch, answer: object,
                                            lines: list[str]) -> None:
    def ask(path: str, call: str) -> object:
        assert call == "Slim.Status"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("driver.commands.control_client.ask", ask)
    assert [str(finding) for finding in driver_says.told_by_driver(Settings())] == lines


@pytest.mark.parametrize(("status", "names"), [
    ({"directory": "5 endpoints", "services": "2 addresses, published elsewhere"}, []),
    ({"directory": "5 endpoints; 2 in doubt, kept though etcd lacks them (b (192.0.2.2): 2)",
      "services": "2 addresses, published elsewhere; 1 in doubt, kept though etcd lacks them"},
     ["directory", "services"]),
    ({"directory": "5 endpoints; 1 records cannot be read"}, ["directory"]),
    ({}, []), (SlimError("no access"), [])])
def test_what_is_in_doubt_fails_the_doctor(monkeypatch: pytest.MonkeyPatch, status: object,
                                           names: list[str]) -> None:
    def ask(path: str, call: str) -> object:
        if isinstance(status, Exception):
            raise status
        return {"Status": status}

    monkeypatch.setattr("driver.commands.control_client.ask", ask)
    found = list(driver_says.doubts(Settings()))
    assert [finding.name for finding in found] == names
    assert all("keep" in str(finding) or "kept" in str(finding) for finding in found)
