"""Tests what `slim cluster` does beside a managed plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.host import ThisHost
from driver.cluster.model import ClusterHost
from driver.cluster.records import ClusterRecords
from driver.cluster.services import DRIVER, KEEPER
from driver.commands.cluster import care, run
from driver.errors import Conflict, StateError, StoreUnavailable
from driver.settings import load
from tests.unit.cluster.test_keeper import FakeServices, Kv

ME = Identity("c" * 32, "test", 1, "1" * 32, "h1", "192.0.2.1")


@pytest.fixture
def here(tmp_path: Path) -> ThisHost:
    return ThisHost(ClusterFolder(tmp_path / "cluster"), FakeServices(), tmp_path / "etcd",
                    tmp_path / "up.env", str(tmp_path / "sock"))


def test_a_plugin_is_not_started_here(here: ThisHost) -> None:
    here.start_programs(Identity(**{**vars(ME), "plugin": True}))
    here.wait_for_driver()
    assert here.services.done == [f"start {KEEPER}"]  # type: ignore[attr-defined]
    assert DRIVER != KEEPER


def test_a_driver_beside_the_plugin_is_refused(here: ThisHost, monkeypatch: pytest.MonkeyPatch
                                               ) -> None:
    monkeypatch.setattr(run, "driver_answers", lambda _: True)
    with pytest.raises(Conflict, match="systemctl disable --now slim"):
        run._refuse_two_drivers(here, {"plugin": True})
    run._refuse_two_drivers(here, {"plugin": False})
    monkeypatch.setattr(run, "driver_answers", lambda _: False)
    run._refuse_two_drivers(here, {"plugin": True})


@pytest.mark.parametrize("plugin", [True, False])
def test_it_is_told_what_to_do(here: ThisHost, capsys: pytest.CaptureFixture[str], *, plugin: bool
                               ) -> None:
    here.folder.put_identity(Identity(**{**vars(ME), "plugin": plugin}))
    run._say_what_a_plugin_needs(here)
    said = capsys.readouterr().out
    assert (f"docker plugin set slim ETCD= tls.source={here.folder.path.parent}" in said) == plugin


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/etc/slim/up.env"),
                                   OSError(30, "Read-only file system")])
def test_a_disk_that_is_full_is_told_in_one_line(
        error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise error

    monkeypatch.setattr(run, "run_init", full)
    with pytest.raises(StateError, match=f"(up.env|init): {error.strerror}.  Once that is mended"):
        run.run_cluster(load({}, {"SLIM_CONFIG": "/dev/null", "SLIM_CLUSTER": str(tmp_path)}),
                        "init", {})


@pytest.mark.parametrize("command", ["init", "join", "token", "serve", "status", "leave", "remove",
                                     "backup", "restore", "tidy"])
def test_keys_that_a_killed_command_has_left_go(command: str, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in no cluster's folder: no command finds them again."""
    for name in ("cluster.old", "cluster.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "host.key").write_text("x")
    for owner in (run, care):
        if hasattr(owner, f"run_{command}"):
            monkeypatch.setattr(owner, f"run_{command}", lambda *_: 7)
    settings = load({}, {"SLIM_CONFIG": "/dev/null", "SLIM_CLUSTER": str(tmp_path / "cluster")})
    assert run.run_cluster(settings, command, {}) == 7
    # While another one may be joining, only who cannot mean that cluster removes the second.
    assert [each.name for each in tmp_path.iterdir()] == (
        [] if command in ("init", "leave") else ["cluster.new"])


class Etcd(Kv):
    away = False

    def range(self, prefix: str) -> Any:
        if self.away:
            raise StoreUnavailable("no answer (fake)")
        return super().range(prefix)


def test_which_hosts_are_left(here: ThisHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has just left is in the file for some seconds more."""
    here.folder.put_lines("hosts", ("192.0.2.1", "192.0.2.2"))
    monkeypatch.setattr(ClusterFolder, "etcd_settings", lambda _: None)
    etcd = Etcd(None)
    monkeypatch.setattr(care, "EtcdKeyValue", lambda _: etcd)
    assert care.addresses(here.folder) == ["192.0.2.1", "192.0.2.2"]  # etcd has lost them
    ClusterRecords(etcd).change_host(ME.host, lambda _: ClusterHost(
        ME.host, "h1", "192.0.2.1", 1.0))
    assert care.addresses(here.folder) == ["192.0.2.1"]
    etcd.away = True
    assert care.addresses(here.folder) == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(("name", "ours"), [
    ("slim", True), ("slim:latest", True), ("example.org/net/slim:1.0", True), ("bridge", False),
    ("slimmer", False), ("slim/other:latest", False)])
def test_which_networks_would_be_without_a_driver(name: str, *, ours: bool) -> None:
    assert care._is_ours({"Driver": name}, load({}, {"SLIM_CONFIG": "/dev/null"})) == ours
