"""Tests settings: where they come from, what they refuse, and that each is documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from driver import __version__
from driver.__main__ import main
from driver.errors import SettingsError
from driver.settings import (
    PortRange,
    Settings,
    describe,
    keeps_answering,
    load,
    with_plain_names,
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "slim.toml"
    path.write_text("")
    return path


def loaded(config: Path, flags: dict[str, str | None] | None = None,
           environment: dict[str, str] | None = None) -> Settings:
    return load({"config": str(config), **(flags or {})}, environment or {})


def test_defaults(config: Path) -> None:
    settings = loaded(config)
    assert settings == Settings()
    assert settings.port_range == PortRange(61000, 65535)
    assert settings.vxlan_port == 14789
    assert settings.socket == "/run/docker/plugins/slim.sock"


def test_flag_wins_over_environment_over_file(config: Path) -> None:
    config.write_text('vxlan_port = 5001\nlog-level = "debug"\nstate = "/a"\n')
    settings = loaded(config, {"vxlan_port": "5003", "etcd": None},
                      {"SLIM_VXLAN_PORT": "5002", "SLIM_STATE": "/b", "PATH": "/bin"})
    assert (settings.vxlan_port, settings.state, settings.log_level) == (5003, "/b", "debug")


@pytest.mark.parametrize("text", ["127.0.0.1:9500", "[::1]:9500", "0.0.0.0:1024"])
def test_addresses_with_ports(config: Path, text: str) -> None:
    assert str(loaded(config, {"metrics": text}).metrics) == text
    assert loaded(config, {"metrics": ""}).metrics is None


def test_lists_in_the_file(config: Path) -> None:
    config.write_text('etcd = ["http://10.0.0.1:2379", "http://10.0.0.2:2379/"]\n')
    assert loaded(config).etcd == ("http://10.0.0.1:2379", "http://10.0.0.2:2379")


@pytest.mark.parametrize(("name", "value"), [
    ("etcd", ""), ("etcd", "10.0.0.1:2379"), ("etcd", "http://10.0.0.1"), ("etcd", "ftp://a:1"),
    ("etcd", "http://a:99999"), ("etcd", "http://a:1,https://b:1"), ("etcd", "http://u:p@a:1"),
    ("etcd", "http://a:1/x"), ("port_range", "61000"), ("port_range", "70-80"),
    ("port_range", "65000-64000"), ("port_range", "61000-65536"), ("port_range", "6_1000-65535"),
    ("vxlan_port", "0"), ("vxlan_port", "-1"), ("vxlan_port", "x"), ("vxlan_port", "65536"),
    ("underlay", "10.0.0.300"), ("underlay", "a b"), ("underlay", "averyveryverylongname"),
    ("underlay", "fe80::1"), ("underlay", "ff02::1"), ("underlay", "::"), ("underlay", "::1"),
    ("underlay", "::ffff:10.0.0.1"), ("underlay", "2001:db8::1%eth0"), ("underlay", "2001:db8::g"),
    ("underlay", "eth0/ipv4"), ("underlay", "averyveryverylongname/ipv6"),
    ("bpffs", "sys"), ("bpffs", ""), ("socket", "slim.sock"), ("state", "x"),
    ("log_level", "loud"), ("supernet", "10.0.0.1/8"), ("supernet", "10.0.0.0/24"),
    ("supernet", "fd00::/8"), ("scope", "swarm"), ("etcd_user", "a\nb"),
    ("metrics", "9500"), ("metrics", ":9500"), ("metrics", "localhost:9500"),
    ("metrics", "127.0.0.1"), ("metrics", "127.0.0.1:80"), ("metrics", "127.0.0.1:x"),
    ("metrics", "::1:9500"), ("metrics", "[127.0.0.1]:9500"), ("metrics", "[fe80::1%lo]:9500"),
    ("metrics", "http://127.0.0.1:9500"), ("metrics", "[::1]"),
])
def test_wrong_values_name_the_source(config: Path, name: str, value: str) -> None:
    flag, variable = "--" + name.replace("_", "-"), "SLIM_" + name.upper()
    for flags, environment, source in (({name: value}, {}, flag),
                                       ({}, {variable: value}, variable)):
        with pytest.raises(SettingsError, match=re.escape(source)) as caught:
            loaded(config, flags, environment)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "found"), [
    ("2001:DB8:0::5", "2001:db8::5"), ("fd00::1", "fd00::1"), ("eth0/ipv6", "eth0/ipv6"),
    ("/ipv6", "/ipv6"), ("10.0.0.1", "10.0.0.1"), ("eth0", "eth0"), ("", "")])
def test_an_underlay_of_either_family(config: Path, text: str, found: str) -> None:
    assert loaded(config, {"underlay": text}).underlay == found


@pytest.mark.parametrize(("text", "why"), [
    ("fe80::1", "is link-local"), ("::ffff:10.0.0.1", "write 10.0.0.1"), ("ff02::1", "no address"),
    ("2001:db8::1%eth0", "has a zone")])
def test_an_ipv6_underlay_that_cannot_be_says_why(config: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        loaded(config, {"underlay": text})


@pytest.mark.parametrize(("flags", "named"), [
    ({"etcd_cert": "/a"}, "--etcd-key"), ({"etcd_user": "a"}, "--etcd-password-file"),
    ({"etcd_ca": "/a"}, "https"), ({"metrics": "127.0.0.1:61000"}, "--port-range")])
def test_settings_that_go_together(config: Path, flags: dict[str, str | None], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        loaded(config, flags)


@pytest.mark.parametrize(("text", "named"), [
    ("vxlan_prot = 1", "vxlan_prot"), ("vxlan_port = true", "vxlan_port"), ("x", "slim.toml"),
    ("vxlan_port = 70000", "vxlan_port in "), ("etcd = [1]", "etcd")])
def test_a_wrong_file(config: Path, text: str, named: str) -> None:
    config.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(named)):
        loaded(config)


def test_a_missing_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape("none.toml")):
        load({}, {"SLIM_CONFIG": str(tmp_path / "none.toml")})


def test_a_plugins_settings_have_plain_names(config: Path, project: Path) -> None:
    plugin = json.loads((project / "plugin.json").read_text())
    given = {each["name"]: each["value"] for each in plugin["env"]}
    settings = loaded(config, environment=with_plain_names(given | {"ETCD": "http://10.0.0.1:2379"}))
    assert settings.etcd == ("http://10.0.0.1:2379",)
    assert (settings.scope, settings.underlay, settings.netns_dir) == ("global", "", "/hostrun")
    assert settings.port_range == Settings().port_range  # empty means the default
    known = {item.name.upper() for item in fields(Settings)}
    assert {each["name"] for each in plugin["env"] if each["settable"]} <= known
    assert with_plain_names({"ETCD": "ignored"}) == {"ETCD": "ignored"}


def test_a_plugin_installed_over_another_keeps_all_settings(project: Path) -> None:
    """scripts/plugin-install.sh finds their names in plugin.json by a line of its own."""
    plugin = json.loads((project / "plugin.json").read_text())
    line = next(line for line in (project / "scripts/plugin-install.sh").read_text().splitlines()
                if "settable=$(" in line)
    names = subprocess.run(["bash", "-c", f"{line}; echo $settable"], cwd=project, check=True,
                           capture_output=True, text=True).stdout.strip()
    assert names.split("|") == [each["name"] for each in plugin["env"] if each["settable"]]


def test_who_goes_on_answering(config: Path) -> None:
    """A driver that is started again and again, and no command that somebody types."""
    assert keeps_answering({"SLIM_PLAIN_NAMES": "yes"})
    assert keeps_answering({"SLIM_SUPERVISED": "1"})
    assert not keeps_answering({"SLIM_SUPERVISED": "", "SLIM_SCOPE": "local"})
    assert loaded(config, environment=with_plain_names({"SLIM_SUPERVISED": "1"})) == loaded(config)


def test_an_unknown_variable(config: Path) -> None:
    with pytest.raises(SettingsError, match="SLIM_ETDC"):
        loaded(config, {}, {"SLIM_ETDC": "x"})


@pytest.mark.parametrize("arguments", [
    [], ["fly"], ["serve", "--prot-range", "1"], ["serve", "extra"], ["serve", "--etcd"],
    ["serve", "--etc", "http://a:1"], ["serve", "--vxlan-port", "0"], ["counters", "--nope"],
    ["version", "--etcd", "http://a:1"]])
def test_wrong_use_is_one_line_and_status_2(arguments: list[str], capsys) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("slim: ")
    assert captured.err.count("\n") == 1


def test_version(capsys, project: Path) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"slim {__version__}\n"
    assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"] == (
        __version__)


def test_counters_without_a_daemon(tmp_path: Path, capsys, config: Path) -> None:
    assert main(["counters", "--config", str(config), "--socket", str(tmp_path / "none")]) == 1
    assert "is it running?" in capsys.readouterr().err


def test_help_does_not_load_the_kernel_parts() -> None:
    code = ("import sys; from driver.__main__ import make_parser; make_parser();"
            "sys.exit(any(m in sys.modules for m in ('bcc', 'pyroute2', 'etcd3', 'flask')))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_setting_is_documented(project: Path) -> None:
    text = (project / "docs/settings.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()
            if line.startswith("| `--")}
    assert list(rows) == [f"`{flag}`" for flag, *_ in describe()]
    assert len(rows) == len(fields(Settings))
    for flag, variable, default, _ in describe():
        assert f"`{variable}`" in rows[f"`{flag}`"]
        assert not default or f"`{default}`" in rows[f"`{flag}`"]
