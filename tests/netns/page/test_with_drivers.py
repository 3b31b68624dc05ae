"""Tests that the page shows what two hosts' real drivers tell, and that nothing is told without."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from driver.commands.control_client import ask
from driver.store.format import keys
from tests.netns.cluster.etcd_world import LONG_S, World
from tests.netns.page.shown import go, move, text
from tests.support.browser import browser
from tests.support.paged import page
from tests.support.run.wait import wait_until


def asking(socket: str, cluster: bool) -> dict[str, Any]:
    return ask(socket, "Slim.Picture", {"Cluster": cluster})


def rows(shown: str) -> list[str]:
    return [each for each in shown.split("\n") if each]


@pytest.mark.timeout(400)
def test_two_hosts_that_talk(world: World) -> None:
    here, there = world.boxes
    with page(partial(asking, here.host.socket)) as served, browser() as window:
        go(window, served)
        wait_until(lambda: window.run("return document.querySelectorAll("
                                      "'svg.picture .line.host').length") == 1, LONG_S,
                   "a line on the host path")
        wait_until(lambda: "2 of 2" in text(window, ".facts"), LONG_S, "both hosts are well")
        pairs = rows(window.run("return document.querySelector('#title-pairs')"
                                ".closest('section').querySelector('tbody').innerText"))
        assert len(pairs) == 1
        for box in (here, there):
            assert box.ip in pairs[0]
            assert box.endpoint[:12] in pairs[0]
        window.run("document.querySelector('svg.picture .dot').closest('a').dispatchEvent("
                   "new MouseEvent('click', {bubbles: true, cancelable: true}))")
        wait_until(lambda: text(window, "h1").startswith("Container"), LONG_S, "a container")
        move(window, "#/")
        wait_until(lambda: len(served.feed.history.all()) >= 1, LONG_S, "a sample of the hour")
        assert window.console() == []
    wait_until(lambda: not [entry for prefix in (keys.WATCHERS, keys.SUMMARIES)
                            for entry in world.cluster.entries(prefix)], LONG_S,
               "the hosts tell nothing any more")
