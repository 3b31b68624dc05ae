"""Tests the page in Chromium: hostile names, no other site, live, by keyboard, on any screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from driver.api.page.guard import Guard
from tests.netns.page.shown import SHOWN_S, go, move, shown, text
from tests.support.browser import Browser, browser
from tests.support.fakes.pictures import HOSTILE, Pictures
from tests.support.paged import Served, page
from tests.support.run.wait import wait_until

TAB, ENTER = "\ue004", "\ue007"
VIEWS = ("#/", "#/host/h0", "#/network/100", "#/container/100/10.32.0.2", "#/containers",
         "#/refusals", "#/host/nobody", "#/%E0%A4%A", "#/container/100/" + quote(HOSTILE[0], ""))


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def crowd() -> Iterator[tuple[Served, Pictures]]:
    """A cluster of 50 hosts and 1,000 endpoints, some of whose names are hostile."""
    pictures = Pictures(hosts=50, endpoints=1000, hostile=True)
    with page(pictures.answer) as made:
        yield made, pictures


def well(window: Browser, served: Served) -> None:
    """No script of another's ran, nothing was refused or failed, and no other site was asked."""
    assert window.run("return window.hacked ?? null") is None
    assert window.console() == []
    asked = {"{0.scheme}://{0.netloc}".format(urlsplit(each)) for each in window.asked()
             if not each.startswith("data:")}
    assert asked == {served.origin}


def test_hostile_names_are_text_in_all_views(window: Browser, crowd: tuple[Served, Pictures]
                                             ) -> None:
    served, _ = crowd
    go(window, served)
    for view in VIEWS:
        move(window, view)
        assert window.run("return document.querySelectorAll('img, script:not([src]), iframe, "
                          "[onerror], [onload], [onfocus], [style]:not(.uplot *)').length"
                          ) == 0, view
        assert "\u202e" not in text(window, "body")
        assert "\u0007" not in text(window, "body")
    move(window, "#/containers")
    assert HOSTILE[0] in text(window)
    assert "long" * 100 not in text(window, "body")
    well(window, served)


def test_the_check_sees_a_script_and_another_site(window: Browser,
                                                  crowd: tuple[Served, Pictures]) -> None:
    """What `well` relies on: else it could not fail."""
    served, _ = crowd
    go(window, served)
    window.run("""const image = document.createElement('img');
        image.src = 'http://192.0.2.1:9/x.png'; document.body.append(image);
        document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.hacked=1">')""")
    said: list[str] = []

    def refused() -> int:
        said.extend(window.console())
        return sum("Content Security Policy" in each for each in said) >= 2

    wait_until(refused, SHOWN_S, "both are refused")
    assert window.run("return window.hacked ?? null") is None, "the policy holds"


def test_updates_arrive_without_reloading(window: Browser, crowd: tuple[Served, Pictures]) -> None:
    served, pictures = crowd
    go(window, served)
    window.run("window.same = document.querySelector('svg.picture .dot')")
    before = window.run("return [...document.querySelectorAll('svg.picture circle')].map("
                        "(each) => [each.getAttribute('cx'), each.getAttribute('cy')].join())")
    first, asked = shown(window), len(pictures.asked)
    wait_until(lambda: shown(window) != first, SHOWN_S, "another picture")
    assert len(before) == 1000 + 50
    assert window.run("return window.same.isConnected")
    assert before == window.run(
        "return [...document.querySelectorAll('svg.picture circle')].map("
        "(each) => [each.getAttribute('cx'), each.getAttribute('cy')].join())"), "nothing jumps"
    assert all(pictures.asked[asked:]), "the cluster is asked for while somebody looks"
    assert window.run("return document.querySelectorAll('svg.picture .line').length") <= 310
    well(window, served)


def test_a_filter_keeps_its_text_and_place_over_updates(window: Browser,
                                                        crowd: tuple[Served, Pictures]) -> None:
    served, _ = crowd
    go(window, served, "#/containers")
    window.run("document.querySelector('input[type=search]').focus()")
    window.press(*"web-1")
    wait_until(lambda: window.run("return document.querySelectorAll('tbody tr').length") < 20,
               SHOWN_S, "the filter has an effect")
    first = shown(window)
    wait_until(lambda: shown(window) != first, SHOWN_S, "another picture")
    assert window.run("return [document.activeElement.type, document.activeElement.value]") == [
        "search", "web-1"]
    assert window.run("return [...document.querySelectorAll('tbody tr')].every("
                      "(each) => each.textContent.includes('web-1'))")
    well(window, served)


def test_the_keyboard_is_enough(window: Browser, crowd: tuple[Served, Pictures]) -> None:
    served, _ = crowd
    go(window, served)
    names = []
    for _ in range(5):
        window.press(TAB)
        names.append(window.run("return document.activeElement.textContent"))
    assert names == ["Skip to content", "slim", "Cluster", "Containers", "Drops"]
    window.press(ENTER)
    wait_until(lambda: "Drops and fallbacks" in text(window, "h1"), SHOWN_S, "another view")
    assert window.run("return document.activeElement.id") == "main"
    assert str(window.run("return document.title")).startswith("Drops and fallbacks")
    # What to do about a reason opens by the keyboard, and stays open over updates.
    wait_until(lambda: (window.press(TAB), window.run(
        "return document.activeElement.tagName"))[1] == "SUMMARY", SHOWN_S, "a reason")
    window.press(ENTER)
    assert "What to do" in text(window, "details[open]")
    first = shown(window)
    wait_until(lambda: shown(window) != first, SHOWN_S, "another picture")
    assert window.run("return [document.activeElement.tagName, "
                      "document.querySelectorAll('details[open]').length]") == ["SUMMARY", 1]
    well(window, served)


def test_everything_has_a_name_for_who_does_not_see(window: Browser,
                                                    crowd: tuple[Served, Pictures]) -> None:
    served, _ = crowd
    go(window, served)
    tree = window.cdp("Accessibility.getFullAXTree")["nodes"]
    unnamed = [node["role"]["value"] for node in tree
               if not node["ignored"] and node.get("role", {}).get("value") in (
                   "link", "button", "searchbox", "image", "region", "meter", "navigation")
               and not node.get("name", {}).get("value")]
    assert unnamed == []


def test_a_page_that_is_not_seen_does_not_follow(window: Browser) -> None:
    with page(Pictures().answer) as served:
        go(window, served)
        see = ("Object.defineProperty(document, 'hidden', {value: arguments[0], "
               "configurable: true});"
               "document.dispatchEvent(new Event('visibilitychange'))")
        assert served.feed.followers == 1
        window.run(see, True)
        wait_until(lambda: served.feed.followers == 0, SHOWN_S, "it follows no more")
        first = shown(window)
        window.run(see, False)
        wait_until(lambda: shown(window) != first, SHOWN_S, "another picture")
        assert served.feed.followers == 1
        well(window, served)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable(window: Browser, crowd: tuple[Served, Pictures], scheme: str) -> None:
    """Texts have a contrast of 4.5 to what is behind them."""
    served, _ = crowd
    go(window, served)
    window.prefer(scheme)
    dark = window.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark is (scheme == "dark")
    poor = window.run("""
        const light = (colour) => {
          const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => {
            const part = each / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
          });
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (element) => {
          for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!colour.endsWith(', 0)')) return colour;
          }
        };
        return [...document.querySelectorAll('p, a, td, th, dt, dd, h1, h2, small, span, li')]
          .filter((each) => each.checkVisibility() && each.textContent && !each.closest('svg'))
          .map((each) => {
            const [one, two] = [light(getComputedStyle(each).color), light(ground(each))];
            return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), each.className,
                    each.tagName, getComputedStyle(each).color, ground(each)];
          }).filter(([contrast]) => contrast < 4.5);""")
    assert poor == []


@pytest.mark.parametrize("view", VIEWS)
def test_narrow_screens_need_no_sideways_scrolling(
        window: Browser, crowd: tuple[Served, Pictures], view: str) -> None:
    served, _ = crowd
    go(window, served)
    window.size(360, 740)
    move(window, view)
    assert window.run("return document.documentElement.scrollWidth") <= 360


def test_a_driver_that_is_gone_is_said_and_its_last_picture_stays(window: Browser) -> None:
    pictures = Pictures()
    gone = False

    def ask(cluster: bool) -> dict[str, Any]:
        return {} if gone else pictures.answer(cluster)

    with page(ask) as served:
        go(window, served)
        gone = True
        wait_until(lambda: "of one version?" in text(window, "#live"), SHOWN_S, "trouble")
        assert "node-1" in text(window)
        assert "stale" in str(window.run("return document.body.className"))
        gone = False
        wait_until(lambda: "live" in text(window, "#live"), SHOWN_S, "it is well again")
        well(window, served)


def test_the_page_takes_the_token_out_of_its_address(window: Browser) -> None:
    guard = Guard("192.0.2.1", 8118)
    with page(Pictures().answer, guard) as served:
        go(window, served, f"?token={guard.token}#/containers")
        assert window.run("return location.href") == f"{served.origin}/#/containers"
        assert window.run("return document.cookie") == "", "scripts do not see it"
        window.console()
        window.open(f"{served.origin}/")
        wait_until(lambda: shown(window), SHOWN_S, "the cookie is enough")
        well(window, served)
