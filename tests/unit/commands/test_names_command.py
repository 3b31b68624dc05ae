"""Tests what `slim names` prints of what a driver answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from driver.api.control import Control
from driver.api.server import ApiServer
from driver.commands.control_client import NotRunningError
from driver.commands.names import run_names
from driver.errors import NotFound, SlimError
from driver.settings import Settings

APP = {"Network": "app", "NetworkID": "8b1f" * 16, "Subnets": "10.32.0.0/16 fd00::/64"}
BACK = {"Network": "back", "NetworkID": "beef" * 16, "Subnets": "10.33.0.0/16"}
SAID: list[dict[str, str]] = [
    {**APP, "Names": "web www", "Address": "10.32.0.2 fd00::2", "Host": "host-a"},
    {**APP, "Names": "database", "Address": "10.32.0.3", "Host": "host-b"},
    {**BACK, "Names": "web", "Address": "10.33.0.2", "Host": ""}]
APP_TABLE = """\
NETWORK  NAMES     ADDRESS            HOST
app      web www   10.32.0.2 fd00::2  host-a
app      database  10.32.0.3          host-b
"""
BACK_TABLE = """\
NETWORK  NAMES  ADDRESS    HOST
back     web    10.33.0.2
"""
WHOLE_TABLE = APP_TABLE + "back     web       10.33.0.2\n"


@contextmanager
def driver(tmp_path: Path, answer: Callable[[], object]) -> Iterator[Settings]:
    """Serve the answer as a driver does."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        assert environ["PATH_INFO"] == "/Slim.Names"
        body = json.dumps(answer()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    path = str(tmp_path / "slim.sock")
    server = ApiServer(app, path, threads=1)
    server.start()
    try:
        yield Settings(socket=path)
    finally:
        server.stop()


@contextmanager
def saying(tmp_path: Path, said: list[dict[str, str]]) -> Iterator[Settings]:
    control = Control(dict, dict, lambda: said)
    with driver(tmp_path, control.get_names) as settings:
        yield settings


@pytest.mark.parametrize(("network", "table"), [
    ("", WHOLE_TABLE), ("app", APP_TABLE), ("back", BACK_TABLE),
    ("10.32.0.0/16", APP_TABLE), ("fd00::/64", APP_TABLE), ("10.33.0.0/16", BACK_TABLE),
    ("8b1", APP_TABLE), ("8b1f" * 16, APP_TABLE), ("beef" * 3, BACK_TABLE)])
def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str,
                   table: str) -> None:
    with saying(tmp_path, SAID) as settings:
        assert run_names(settings, network) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize("network", ["ap", "App", "10.32.0.0", "8b", "1f8b", "web", "host-a"])
def test_an_unknown_network(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                            network: str) -> None:
    with saying(tmp_path, SAID) as settings, pytest.raises(NotFound) as raised:
        run_names(settings, network)
    assert f"in a network {network!r}" in str(raised.value)
    assert str(raised.value).endswith("there are app, back")
    assert capsys.readouterr().out == ""


def test_nobody_has_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with saying(tmp_path, []) as settings:
        assert run_names(settings, "") == 0
        assert capsys.readouterr().out == "NETWORK  NAMES  ADDRESS  HOST\n"
        with pytest.raises(NotFound, match="nor in any other"):
            run_names(settings, "app")


def test_a_network_whose_name_docker_has_not_told(tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Then the beginning of its id stands there."""
    said = [{**SAID[2], "Network": BACK["NetworkID"][:12]}]
    with saying(tmp_path, said) as settings:
        assert run_names(settings, "beefbeefbeef") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("beefbeefbeef  web")


def test_no_driver(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="no driver answers on"):
        run_names(Settings(socket=str(tmp_path / "slim.sock")), "")


@pytest.mark.parametrize(("answer", "error"), [
    ({"Names": {"web": "10.32.0.2"}}, "answers no names"), ({}, "answers no names"),
    ({"Err": "it does not know Slim.Names"}, "it does not know")])
def test_a_driver_that_does_not_know_names(tmp_path: Path, answer: object, error: str) -> None:
    with driver(tmp_path, lambda: answer) as settings, pytest.raises(SlimError, match=error):
        run_names(settings, "")
