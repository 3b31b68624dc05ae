"""Tests that metrics are served at once or later, and what the status says meanwhile."""

from __future__ import annotations

import logging

import pytest

from driver.errors import SlimError
from driver.metrics.serving import MetricsServing
from driver.work.ledger import Ledger


class FakeServer:
    def __init__(self) -> None:
        self.taken = False
        self.running = 0
        self.made = 0

    def make(self) -> FakeServer:
        self.made += 1
        return self

    def start(self) -> None:
        if self.taken:
            raise SlimError("cannot listen at 127.0.0.1:9500: Address already in use")
        self.running += 1

    def stop(self) -> None:
        self.running -= 1


def made(server: FakeServer, host: str = "127.0.0.1") -> tuple[MetricsServing, Ledger]:
    ledger = Ledger()
    return MetricsServing(host, 9500, server.make, ledger), ledger


def test_served_and_stopped(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    serving, ledger = made(server)
    serving.start()
    assert (server.running, serving.describe()) == (1, "served at 127.0.0.1:9500")
    assert ledger.describe() == ""
    assert not ledger.run()
    serving.stop()
    serving.stop()
    assert server.running == 0
    assert caplog.records == []


def test_a_port_that_is_taken_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.taken = True
    serving, ledger = made(server)
    serving.start()
    assert "cannot listen at 127.0.0.1:9500: Address already in use" in caplog.text
    assert serving.describe() == "not served at 127.0.0.1:9500 yet: see outstanding"
    ledger.run()
    assert ledger.describe().startswith("serve metrics at 127.0.0.1:9500 since ")
    assert "2 attempts; cannot listen" in ledger.describe()
    server.taken = False
    ledger.run()
    assert (server.running, ledger.describe()) == (1, "")
    assert serving.describe() == "served at 127.0.0.1:9500"


def test_who_has_stopped_does_not_begin(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.taken = True
    serving, ledger = made(server)
    serving.start()
    serving.stop()
    server.taken = False
    ledger.run()
    serving._begin()  # an attempt that was under way
    assert server.running == 0


@pytest.mark.parametrize(("host", "told"), [
    ("127.0.0.1", ""), ("127.3.2.1", ""), ("::1", ""), ("10.0.0.1", "10.0.0.1:9500"),
    ("0.0.0.0", "0.0.0.0:9500"), ("::", "[::]:9500"), ("fd00::1", "[fd00::1]:9500")])
def test_whoever_reaches_it_may_read(host: str, told: str, caplog: pytest.LogCaptureFixture
                                     ) -> None:
    caplog.set_level(logging.WARNING)
    made(FakeServer(), host)[0].start()
    assert bool(caplog.records) is bool(told)
    assert told in caplog.text
