"""Tests the page's HTTP: headers, token, names, files, and events that end with the browser."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest

from driver.api.page.app import STATIC
from driver.api.page.feed import BROWSERS
from driver.api.page.guard import Guard
from tests.support.fakes.pictures import Pictures
from tests.support.paged import Served, page
from tests.support.run.wait import wait_until

POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
          "'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'")

OWN = [each for each in STATIC.iterdir() if each.is_file()]


@pytest.fixture
def served() -> Iterator[Served]:
    with page(Pictures().answer) as made:
        yield made


@pytest.fixture
def guarded() -> Iterator[tuple[Served, str]]:
    guard = Guard("192.0.2.1", 8118)
    with page(Pictures().answer, guard) as made:
        yield made, guard.token


def get(port: int, path: str, method: str = "GET", **headers: str
        ) -> tuple[int, dict[str, str], str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/static/nothing.js", "/x"])
def test_every_answer_is_guarded_by_headers(served: Served, path: str) -> None:
    _, headers, _ = get(served.port, path)
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] in ("no-store", "no-cache")
    assert "Access-Control-Allow-Origin" not in headers


def test_all_files_are_there_with_their_types(served: Served) -> None:
    _, headers, text = get(served.port, "/")
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Cache-Control"] == "no-store"
    types = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "json",
             ".html": "text/html"}
    for file in OWN:
        status, headers, _ = get(served.port, f"/static/{file.name}")
        assert status == HTTPStatus.OK
        assert types[file.suffix] in headers["Content-Type"]
    assert set(re.findall(r'(?:src|href)="static/([^"]+)"', text)) <= {
        file.name for file in OWN}


def test_files_name_no_other_site_and_make_no_markup() -> None:
    for file in OWN:
        text = file.read_text()
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|"
                             r"\bstyle=|new Function|\bon\w+=\"", text), file.name


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/",
                                  "/static//etc/passwd", "/static/..%2f..%2fserver.py"])
def test_no_other_files(served: Served, path: str) -> None:
    assert get(served.port, path)[0] in (404, 308)


@pytest.mark.parametrize(("method", "path"), [("POST", "/"), ("DELETE", "/events"),
                                              ("PUT", "/static/main.js")])
def test_nothing_can_be_changed(served: Served, method: str, path: str) -> None:
    assert get(served.port, path, method)[0] == HTTPStatus.METHOD_NOT_ALLOWED


@pytest.mark.parametrize("path", ["/", "/events", "/static/main.js"])
def test_a_name_that_may_be_anybodys_is_refused(served: Served, path: str) -> None:
    status, _, text = get(served.port, path, Host="evil.example:8118")
    assert status == HTTPStatus.FORBIDDEN
    assert text.startswith("Open this page by an IP address or as localhost")


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=x", "/events", "/events?token={}"])
def test_without_the_token(guarded: tuple[Served, str], path: str) -> None:
    served, token = guarded
    status, headers, text = get(served.port, path.format(token))
    assert status == HTTPStatus.FORBIDDEN
    assert "open the whole address" in text
    assert "Set-Cookie" not in headers


def test_the_token_becomes_a_cookie(guarded: tuple[Served, str]) -> None:
    served, token = guarded
    status, headers, _ = get(served.port, f"/?token={token}")
    assert status == HTTPStatus.OK
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert get(served.port, "/", Cookie=cookie)[0] == HTTPStatus.OK
    assert get(served.port, "/", Cookie=cookie[:-1])[0] == HTTPStatus.FORBIDDEN
    with closing(following(served.port, Cookie=cookie)) as browser:
        assert browser.recv(15) == b"HTTP/1.1 200 OK"


def following(port: int, **headers: str) -> socket.socket:
    """Follow the events as a browser does."""
    browser = socket.create_connection(("127.0.0.1", port), timeout=20)
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    browser.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode())
    return browser


def test_events_come_and_end_with_the_browser(served: Served) -> None:
    with closing(following(served.port)) as browser:
        got = b""
        while got.count(b"event: picture") < 2:
            got += browser.recv(65536)
        assert b"Content-Type: text/event-stream" in got
        assert got.index(b"event: history") < got.index(b"event: picture")
        assert served.feed.followers == 1
    wait_until(lambda: served.feed.followers == 0, 30, "the browser's place is free")


def test_one_browser_too_many_is_told(served: Served) -> None:
    browsers = [following(served.port) for _ in range(BROWSERS)]
    try:
        wait_until(lambda: served.feed.followers == BROWSERS, 30, "all follow")
        status, _, text = get(served.port, "/events")
        assert status == HTTPStatus.SERVICE_UNAVAILABLE
        assert "close it in one of them" in text
        assert get(served.port, "/")[0] == HTTPStatus.OK, "there are threads left for the page"
    finally:
        for browser in browsers:
            browser.close()
    wait_until(lambda: served.feed.followers == 0, 30, "all places are free")


def test_a_question_for_the_head_takes_no_place(served: Served) -> None:
    for _ in range(BROWSERS + 1):
        assert get(served.port, "/events", "HEAD")[0] == HTTPStatus.OK
    assert served.feed.followers == 0


def test_stopping_does_not_wait_for_browsers() -> None:
    with page(Pictures().answer) as served:
        browser = following(served.port)
        wait_until(lambda: served.feed.followers == 1, 30, "it follows")
    with closing(browser):
        while browser.recv(65536):
            pass


def test_the_files_are_in_the_package(project: Path) -> None:
    text = (project / "pyproject.toml").read_text()
    assert '"driver.api.page" = ["static/*", "static/vendor/*/*"]' in text


def test_every_import_of_the_scripts_is_there() -> None:
    """A name that a module does not export stops the whole page."""
    for file in STATIC.glob("*.js"):
        for names, module in re.findall(r"import \{ ([^}]*) \} from \"\./([^\"]+)\"",
                                        file.read_text()):
            exported = re.findall(r"export (?:const|function|class) (\w+)",
                                  (STATIC / module).read_text())
            assert set(names.split(", ")) <= set(exported), f"{file.name}: {module}"
