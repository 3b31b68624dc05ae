"""Tests the doctor's checks of what else manages a host's network, with the files against it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from driver.doctor import managers, procfs
from driver.doctor.finding import CheckError
from driver.link.netlink.names import PROBE_NAME, VXLAN_NAME, container_name, host_name
from driver.model import EndpointId
from driver.settings import Settings

INSTALLED = "`make up` installs it, or `apt-get install --reinstall slim`"
LINKS = "etc/systemd/network/05-slim.network"
FOREIGN = "etc/systemd/networkd.conf.d/slim.conf"
NM = "etc/NetworkManager/conf.d/slim.conf"


def install(root: Path, *argv: str, project: Path) -> None:
    subprocess.run([str(project / "packaging/network/install"), *argv, str(root / "etc")],
                   check=True)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Path) -> Path:
    """A host on which both managers run, with slim's files."""
    monkeypatch.setattr(managers, "ROOT", tmp_path)
    monkeypatch.setattr(procfs, "runs", lambda name: True)
    monkeypatch.setattr(procfs, "slim_links", lambda: [(VXLAN_NAME, 7)])
    (tmp_path / "etc").mkdir()
    install(tmp_path, project=project)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(said: str, *, network_manager: bool = False) -> bool:
    check = managers.check_network_manager if network_manager else managers.check_networkd
    with pytest.raises(CheckError) as error:
        check(Settings())
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    return True


def test_with_the_files_all_is_well(root: Path) -> None:
    assert "left alone" in managers.check_networkd(Settings())
    assert "left alone" in managers.check_network_manager(Settings())


def test_who_does_not_run_needs_no_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(root / "etc")
    monkeypatch.setattr(procfs, "runs", lambda name: False)
    assert managers.check_networkd(Settings()) == managers.NOT_HERE
    assert managers.check_network_manager(Settings()) == managers.NOT_HERE


@pytest.mark.parametrize("missing", [LINKS, FOREIGN, NM])
def test_a_missing_file(root: Path, missing: str) -> None:
    (root / missing).unlink()
    assert refused(INSTALLED, network_manager=missing == NM)


def test_a_file_that_hides_ours(root: Path) -> None:
    (root / "usr/lib/systemd").mkdir(parents=True)
    shutil.move(root / "etc/systemd/network", root / "usr/lib/systemd/network")
    assert "left alone" in managers.check_networkd(Settings())
    (root / LINKS).parent.mkdir(parents=True)
    (root / LINKS).symlink_to("/dev/null")
    assert refused(f"{LINKS} does not say Unmanaged=yes")
    write(root / NM, "[device-slim]\nmanaged=1\n")
    assert refused(f"{NM} does not say unmanaged-devices+=", network_manager=True)


@pytest.mark.parametrize("name", managers.FOREIGN)
def test_a_file_that_undoes_ours(root: Path, name: str) -> None:
    write(root / "etc/systemd/networkd.conf", f"[Network]\n{name}=yes\n")
    write(root / "usr/lib/systemd/networkd.conf.d/50-x.conf", f"[Network]\n{name}=yes\n")
    assert "left alone" in managers.check_networkd(Settings()), "ours is behind these"
    write(root / "run/systemd/networkd.conf.d/z.conf", f"[Network]\n# no\n{name} = yes\n")
    assert refused("run/systemd/networkd.conf.d/z.conf: correct that")
    write(root / "etc/systemd/networkd.conf.d/z.conf", f"[Network]\n{name}=false\n")
    assert "left alone" in managers.check_networkd(Settings()), "etc hides run"


def test_a_list_that_replaces_ours(root: Path) -> None:
    for name in ("other.conf", "zz.conf"):
        write(root / f"etc/NetworkManager/conf.d/{name}",
              "[keyfile]\nunmanaged-devices=interface-name:eth9\n")
        if name == "other.conf":
            assert "left alone" in managers.check_network_manager(Settings()), "ours is behind it"
    assert refused("zz.conf replaces the list", network_manager=True)


@pytest.mark.parametrize(("state", "taken"), [
    ("unmanaged", False), ("pending", False), ("configured", True)])
def test_an_interface_that_has_been_taken(root: Path, state: str, taken: bool) -> None:
    write(root / "run/systemd/netif/links/7", f"# said\nADMIN_STATE={state}\n")
    if taken:
        assert refused(f"has taken {VXLAN_NAME}")
    else:
        assert "left alone" in managers.check_networkd(Settings())


def test_it_is_undone(root: Path, project: Path) -> None:
    install(root, "--remove", project=project)
    assert [path for path in root.rglob("*") if not path.is_dir()] == []


def test_the_files_name_all_of_slims_interfaces(project: Path) -> None:
    """With the patterns' own functions: fnmatch(3) in networkd, * and ? in NetworkManager."""
    from fnmatch import fnmatchcase

    names = [name(EndpointId("0123456789abcdef" * 4)) for name in (host_name, container_name)]
    names += [VXLAN_NAME, PROBE_NAME]
    folder = project / "packaging/network"
    networkd = [value for _, name, value in managers._lines(folder / "slim.network")
                if name == "Name"]
    manager = [value.removeprefix("interface-name:") for _, name, text
               in managers._lines(folder / "NetworkManager.conf") if name == "unmanaged-devices+"
               for value in text.split(",")]
    for patterns in (networkd, manager):
        assert [name for name in names
                if not any(fnmatchcase(name, each) for each in patterns)] == []
        for other in ("slirp0", "eth0", "docker_gwbridge", "slab", "scan0"):
            assert not any(fnmatchcase(other, each) for each in patterns)


def test_this_process_runs_here() -> None:
    with open("/proc/self/comm") as comm:
        assert procfs.runs(comm.read().strip())
    assert not procfs.runs("no-such-program")
