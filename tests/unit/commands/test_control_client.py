"""Tests where the command line looks for a driver: at its socket, else at a managed plugin's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from driver.api.server import ApiServer
from driver.commands.control_client import NotRunningError, ask


@contextmanager
def driver(path: Path) -> Iterator[None]:
    """Serve at this path; each answer is the name of the folder."""

    def app(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = json.dumps({"Here": path.parent.name}).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    path.parent.mkdir(exist_ok=True)
    server = ApiServer(app, str(path), threads=1)
    server.start()
    try:
        yield
    finally:
        server.stop()


def asked(plugins: Path) -> object:
    return ask(str(plugins / "slim.sock"), "Slim.Status")["Here"]


def test_the_one_plugins(tmp_path: Path) -> None:
    with driver(tmp_path / "8b1f" / "slim.sock"):
        (tmp_path / "beef").mkdir()
        (tmp_path / "beef" / "other.sock").touch()
        assert asked(tmp_path) == "8b1f"


def test_a_driver_that_is_no_plugin_is_asked_first(tmp_path: Path) -> None:
    with driver(tmp_path / "8b1f" / "slim.sock"), driver(tmp_path / "slim.sock"):
        assert asked(tmp_path) == tmp_path.name


def test_of_several_plugins_none_is_guessed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for name in ("8b1f", "beef"):
            stack.enter_context(driver(tmp_path / name / "slim.sock"))
        with pytest.raises(NotRunningError, match="no driver answers on"):
            asked(tmp_path)
        assert ask(str(tmp_path / "beef" / "slim.sock"), "Slim.Status")["Here"] == "beef"
