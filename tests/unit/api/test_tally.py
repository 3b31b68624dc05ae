"""Tests that each call of Docker's is counted once, by method and result, and no other request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from driver.api.app import create_app
from driver.api.control import Control
from driver.errors import NotFound
from driver.work.tally import Tally


def fail(error: Exception) -> Any:
    def call(_body: bytes) -> dict[str, Any]:
        raise error

    return call


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def client(tally: Tally) -> Any:
    network: Any = SimpleNamespace(calls=lambda: {
        "NetworkDriver.Join": lambda _body: {}, "NetworkDriver.Leave": fail(NotFound("no such")),
        "NetworkDriver.DeleteNetwork": fail(ZeroDivisionError("x"))})
    ipam: Any = SimpleNamespace(calls=dict)
    ticks = iter(float(tick) for tick in range(100))
    return create_app(network, ipam, Control(dict, dict), lambda: next(ticks), tally).test_client()


def test_by_method_and_result(client: Any, tally: Tally) -> None:
    for path in ("Join", "Join", "Leave", "DeleteNetwork"):
        assert client.post(f"/NetworkDriver.{path}").status_code == 200
    assert {names: (found.count, found.sum_s) for names, found in tally.read().items()} == {
        ("NetworkDriver.Join", "ok"): (2, 2.0), ("NetworkDriver.Leave", "NotFound"): (1, 1.0),
        ("NetworkDriver.DeleteNetwork", "internal"): (1, 1.0)}


def test_others_are_not_counted(client: Any, tally: Tally) -> None:
    """Else whoever asks for anything makes new labels, and a scrape counts itself."""
    client.post("/Slim.Status")
    assert client.post("/Slim.Metrics").json == {"Metrics": ""}
    client.post("/NetworkDriver.Anything")
    client.get("/NetworkDriver.Join")
    assert tally.read() == {}
