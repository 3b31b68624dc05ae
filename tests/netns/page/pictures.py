"""Writes the pictures of docs/ui.md: .venv/bin/python -m tests.netns.page.pictures.

They are made when somebody asks, not by the tests: each has the time of day, and would be another.
"""

from __future__ import annotations

from pathlib import Path

from tests.netns.page.shown import SHOWN_S, go, shown
from tests.support.browser import Browser, browser
from tests.support.fakes.pictures import Pictures
from tests.support.paged import page
from tests.support.run.wait import wait_until

FOLDER = Path(__file__).parents[3] / "docs/pictures"
# name, view, light or dark, size, scale
PICTURES = (("overview", "#/", "light", 1240, 1210, 0.75),
            ("host", "#/host/h0", "light", 1240, 960, 0.75),
            ("refusals", "#/refusals", "dark", 1000, 620, 0.75),
            ("narrow", "#/host/h1", "dark", 360, 740, 1))
HOUR_S = 3600


class Hour(Pictures):
    """Answers whose history is an hour long when a browser comes."""

    def past(self) -> list[dict[str, object]]:
        """Return a picture for each ten seconds of the last hour."""
        self.at -= HOUR_S
        return [self._later() for _ in range(HOUR_S // 10)]

    def _later(self) -> dict[str, object]:
        self.at += 8
        return self.answer(False)


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    pictures = Hour(hosts=5, endpoints=60)
    with browser() as window, page(pictures.answer, past=pictures.past()) as served:
        for name, view, scheme, width, height, scale in PICTURES:
            go(window, served, view)
            window.size(width, height, scale)
            window.prefer(scheme)
            first = shown(window)
            wait_until(lambda first=first: shown(window) != first, SHOWN_S, "another picture")
            point(window)
            settle(window)
            window.screenshot(FOLDER / f"ui-{name}.png")


def point(window: Browser) -> None:
    """Point into the first chart, if there is one: WebDriver's mouse knows no scale."""
    window.run("""
        const area = document.querySelector('.u-over');
        const place = area?.getBoundingClientRect();
        area?.dispatchEvent(new MouseEvent('mousemove', {bubbles: true,
          clientX: place.left + place.width * 0.6, clientY: (place.top + place.bottom) / 2}));""")


def settle(window: Browser) -> None:
    """Wait until no transition runs."""
    wait_until(lambda: window.run("return document.getAnimations().length") == 0, SHOWN_S,
               "nothing moves")


if __name__ == "__main__":
    main()
