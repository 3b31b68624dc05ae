"""Opens views of the page in a browser, and says what is shown."""

from __future__ import annotations

from tests.support.browser import Browser
from tests.support.paged import Served
from tests.support.run.wait import wait_until

SHOWN_S = 60.0


def shown(window: Browser) -> str:
    """Return the time of the picture that is shown; empty: none."""
    return str(window.run("return document.getElementById('main').dataset.shown ?? ''"))


def text(window: Browser, of: str = "main") -> str:
    """Return all text of an element, hidden or not."""
    return str(window.run("return document.querySelector(arguments[0])?.textContent ?? ''", of))


def go(window: Browser, served: Served, where: str = "#/") -> None:
    """Open a view in a page that is loaded anew."""
    window.open("about:blank")
    window.console()
    window.asked()
    window.size(1280, 900)
    window.prefer("light")
    window.open(f"{served.origin}/{where}")
    wait_until(lambda: shown(window), SHOWN_S, "a first picture")


def move(window: Browser, where: str) -> None:
    """Go to another view of the page that is open."""
    if window.run("return location.hash") == where:
        return
    window.run("location.hash = arguments[0]", where)
    wait_until(lambda: window.run("return document.activeElement.id") == "main", SHOWN_S,
               f"{where} is shown")
    window.run("document.activeElement.blur()")
