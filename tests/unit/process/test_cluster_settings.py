"""Tests that a host in a cluster of `slim cluster` uses its etcd, unless it is told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.errors import SettingsError
from driver.settings import Settings, load

URLS = ("https://192.0.2.1:23790", "https://192.0.2.2:23790")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cluster"
    made.mkdir()
    (made / "endpoints").write_text("".join(f"{url}\n" for url in URLS))
    return made


def loaded(folder: Path, file: str = "", **flags: str) -> Settings:
    config = folder.parent / "slim.toml"
    config.write_text(file)
    return load({"config": str(config), "cluster": str(folder), **flags}, {})


def test_the_clusters_folder_says_where_etcd_is(folder: Path) -> None:
    found = loaded(folder)
    assert found.etcd == URLS
    assert (found.etcd_ca, found.etcd_cert, found.etcd_key) == tuple(
        str(folder / name) for name in ("ca.crt", "host.crt", "host.key"))
    assert found.etcd_endpoints_file == str(folder / "endpoints")


def test_no_cluster(tmp_path: Path) -> None:
    found = loaded(tmp_path / "none")
    assert found.etcd == Settings().etcd
    assert (found.etcd_ca, found.etcd_endpoints_file) == ("", "")


def test_another_etcd_was_named(folder: Path) -> None:
    """By a flag, or in the file, or in the environment: then nothing of the cluster counts."""
    config = folder.parent / "slim.toml"
    for found in (loaded(folder, etcd="http://192.0.2.9:1"),
                  loaded(folder, 'etcd = "http://192.0.2.9:1"\n'),
                  load({"config": str(config), "cluster": str(folder)},
                       {"SLIM_ETCD": "http://192.0.2.9:1"})):
        assert found.etcd == ("http://192.0.2.9:1",)
        assert (found.etcd_ca, found.etcd_cert, found.etcd_endpoints_file) == ("", "", "")


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage", b"\xff", b"https://192.0.2.1",
                                     b"http://192.0.2.1:1\nhttps://192.0.2.2:1"])
def test_a_spoilt_file_is_named(folder: Path, content: bytes) -> None:
    """Not by chance another etcd: that of the default would be one."""
    (folder / "endpoints").write_bytes(content)
    with pytest.raises(SettingsError, match=str(folder / "endpoints")):
        loaded(folder)


def test_what_is_no_folder(folder: Path) -> None:
    with pytest.raises(SettingsError):
        loaded(folder / "endpoints")
    (folder / "endpoints").unlink()
    (folder / "endpoints").mkdir()
    with pytest.raises(SettingsError):
        loaded(folder)
