"""Tests collecting what Docker has forgotten, but not what runs or was only just made.

tests/unit/whole/test_every_step.py has failures; tests/lab/docker/test_failures.py, a real dockerd.
"""

from __future__ import annotations

import pytest

from driver.errors import EngineUnavailable
from driver.services.ports import EngineView
from tests.support.faults.calls import end_of_namespace
from tests.support.faults.lives import ONE, perform, until
from tests.support.world.whole import COLLECT_S


def test_a_container_that_runs_is_left_alone_whatever_docker_says() -> None:
    whole = until(ONE.makes())
    before = whole.view()
    whole.docker.networks.clear()
    whole.docker.endpoints.clear()
    whole.collect()
    assert whole.view() == before
    assert perform(whole, end_of_namespace(ONE)).succeeded
    whole.collect()
    assert whole.view()["endpoints"] == {}
    assert "networks" not in str(whole.records().keys())


def test_nothing_goes_before_its_time() -> None:
    whole = until(ONE.makes()[:5])
    before = whole.view()
    whole.docker.forget_all()
    for _ in range(3):
        whole.collector.run()
        whole.now_s += COLLECT_S / 3 - 1
    assert whole.view() == before
    whole.now_s += 3
    whole.collector.run()
    assert whole.view() != before


def test_what_docker_knows_again_starts_anew() -> None:
    whole = until(ONE.makes()[:5])
    before = whole.view()
    for _ in range(3):
        known = (set(whole.docker.networks), set(whole.docker.endpoints))
        whole.docker.networks.clear()
        whole.docker.endpoints.clear()
        whole.collector.run()
        whole.docker.networks, whole.docker.endpoints = known
        whole.now_s += COLLECT_S
        whole.collector.run()
    assert whole.view() == before


def test_docker_that_cannot_be_asked_has_forgotten_nothing(
        monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> EngineView:
        raise EngineUnavailable("no socket")

    whole = until(ONE.makes()[:5])
    before = whole.view()
    monkeypatch.setattr(whole.docker, "look", look)
    whole.collect()
    assert whole.view() == before


def test_a_second_network_of_the_pool_keeps_its_request() -> None:
    """Docker does not name requests, so as many stay as it has networks."""
    whole = until([*ONE.makes()[:3], ONE.request_pool()])
    assert whole.docker.pools == [(ONE.pool, "")] * 2
    whole.collect()
    assert len(whole.addresses.local_uses().requested) == 2
    whole.docker.forget_pool((ONE.pool, ""))
    whole.collect()
    assert len(whole.addresses.local_uses().requested) == 1
