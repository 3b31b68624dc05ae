"""Tests the charts in Chromium: values at the cursor, by mouse and keys; the page without uPlot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from driver.api.page import app
from driver.api.page.app import STATIC
from tests.netns.page.pictures import Hour
from tests.netns.page.shown import SHOWN_S, go, move, shown, text
from tests.support.browser import Browser, browser
from tests.support.fakes.pictures import Pictures
from tests.support.paged import Served, page
from tests.support.run.wait import wait_until

LEFT = "\ue012"
PLOT = ".plot[data-own='Connections opened']"
Values = tuple[str, str]


class Growing(Hour):
    """Answers in each of which another number of connections is opened."""

    def answer(self, cluster: bool) -> dict[str, Any]:
        picture = super().answer(cluster)
        return picture | {"Totals": [
            {"Host": picture["Host"], "Path": "host", "OpenedPerSecond": float(len(self.asked)),
             "BytesInPerSecond": 1e6, "BytesOutPerSecond": 1e6}]}


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def hour() -> Iterator[Served]:
    pictures = Growing(hosts=1, endpoints=2)
    with page(pictures.answer, past=pictures.past()) as made:
        yield made


def legend(window: Browser) -> Values:
    """Return what is said of a time: the time, and connections opened."""
    at, opened = window.run("return [...document.querySelectorAll(arguments[0] + ' .u-value')]"
                            ".map((each) => each.textContent)", PLOT)
    return at, opened


def samples(served: Served) -> list[Values]:
    return [(time.strftime("%H:%M:%S", time.localtime(each["At"])), f"{each['Opened']:.0f}/s")
            for each in served.feed.history.all()]


def test_values_are_those_at_the_mouse_and_else_the_newest(window: Browser, hour: Served) -> None:
    go(window, hour)
    left, top, width = window.run(
        "document.querySelector(arguments[0]).scrollIntoView({block: 'center'});"
        "const area = document.querySelector(arguments[0] + ' .u-over').getBoundingClientRect();"
        "return [area.left, area.top, area.width]", PLOT)
    wait_until(lambda: legend(window) == samples(hour)[-1], SHOWN_S, "the newest")
    for part in (0.25, 0.75):
        window.point(left + part * width, top + 20)
        wait_until(lambda part=part: legend(window) in samples(hour)[
            int(360 * part) - 10:int(360 * part) + 10], SHOWN_S, "those of then")
    first = shown(window)
    wait_until(lambda: shown(window) != first, SHOWN_S, "another picture")
    assert legend(window) in samples(hour)[260:280], "they stay over updates"
    window.point(1, 1)
    wait_until(lambda: legend(window) == samples(hour)[-1], SHOWN_S, "the newest again")
    assert window.console() == []


def test_keys_move_the_cursor(window: Browser, hour: Served) -> None:
    go(window, hour)
    window.run("document.querySelector(arguments[0]).focus({preventScroll: true})", PLOT)
    window.press(*[LEFT] * 100)
    wait_until(lambda: legend(window) in samples(hour)[255:265], SHOWN_S, "those of before")
    window.run("document.activeElement.blur()")
    wait_until(lambda: legend(window) == samples(hour)[-1], SHOWN_S, "the newest again")


def test_who_does_not_see_is_told_the_newest(window: Browser, hour: Served) -> None:
    go(window, hour)
    label = window.run("return document.querySelector(arguments[0]).ariaLabel", PLOT)
    assert re.fullmatch(r"Connections opened, the last hour; now: opened \d+/s", label)


def test_lines_are_in_the_colours_of_the_scheme_and_of_the_windows_width(
        window: Browser, hour: Served) -> None:
    go(window, hour)
    has = """
        const canvas = document.querySelector(".plot[data-own='Traffic by path'] canvas");
        const colour = getComputedStyle(document.documentElement).getPropertyValue('--host');
        const [r, g, b] = colour.match(/[0-9a-f]{2}/g).map((each) => parseInt(each, 16));
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        for (let at = 0; at < data.length; at += 4)
          if (data[at] === r && data[at + 1] === g && data[at + 2] === b && data[at + 3] === 255)
            return colour.trim();
        return '';"""
    found = set()
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        found.add(wait_until(lambda: window.run(has), SHOWN_S, "a line in its colour"))
    assert len(found) == 2
    window.size(360, 740)
    fits = ("return [...document.querySelectorAll('.plot canvas')].every((each) => "
            "each.clientWidth > 200 && each.clientWidth <= each.closest('.plot').clientWidth)")
    wait_until(lambda: window.run(fits), SHOWN_S, "charts of the window's width")
    assert window.run("return document.documentElement.scrollWidth") <= 360


def test_views_come_and_go_without_leaving_charts(window: Browser, hour: Served) -> None:
    go(window, hour)
    for view in ("#/containers", "#/host/h0", "#/refusals", "#/"):
        move(window, view)
    wait_until(lambda: legend(window) == samples(hour)[-1], SHOWN_S, "the newest")
    assert window.run("return document.querySelectorAll('.uplot').length") == 4
    assert window.console() == []


def test_without_uplot_the_page_says_what_to_do(window: Browser, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(STATIC, tmp_path / "static", ignore=shutil.ignore_patterns("vendor"))
    monkeypatch.setattr(app, "STATIC", tmp_path / "static")
    with page(Pictures().answer) as served:
        go(window, served)
        wait_until(lambda: re.search(r"opened \d", text(window, ".charts")), SHOWN_S,
                   "newest values")
        assert "apt-get install npm; make page" in text(window, ".hint")
        assert "node-1" in text(window, "[data-key='table hosts']")
        assert window.run("return document.querySelectorAll('.plot, canvas').length") == 0
        assert all("uPlot.esm.js" in each and "404" in each for each in window.console())


def test_what_is_served_is_what_the_lock_file_pins(project: Path, hour: Served) -> None:
    made = STATIC / "vendor/made.sha256"
    assert made.is_file(), "it is missing: make page"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", made], cwd=project, check=True)
    lock = json.loads((project / "packaging/page/package-lock.json").read_text())
    with closing(HTTPConnection("127.0.0.1", hour.port, timeout=20)) as connection:
        connection.request("GET", "/static/vendor/uplot/uPlot.esm.js")
        answer = connection.getresponse()
        script = answer.read().decode()
    assert "javascript" in answer.headers["Content-Type"]
    assert f"(v{lock['packages']['node_modules/uplot']['version']})" in script[:400]
    assert "MIT License" in (STATIC / "vendor/uplot/LICENSE").read_text()
