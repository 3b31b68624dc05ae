"""Tests `slim ui`: what it prints and serves without a driver, how it ends, bad arguments."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from driver.__main__ import main
from tests.unit.api.test_metrics_server import free_port

LIMIT_S = 60


@contextmanager
def running(folder: Path, at: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run it; yield the process and what it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "driver", "ui", at, "--socket", str(folder / "none.sock")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_what_it_lacks_and_ends(tmp_path: Path, number: int) -> None:
    port = free_port("127.0.0.1")
    with running(tmp_path, f"127.0.0.1:{port}") as (process, said):
        assert said == f"the page: http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as browser:
            browser.request("GET", "/events")
            answer = browser.getresponse()
            lines = iter(answer.readline, b"")
            assert any(b"none.sock" in line and b"is it running?" in line for line in lines)
            process.send_signal(number)
            assert process.wait(timeout=LIMIT_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_other_addresses_come_with_a_token(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with running(tmp_path, f"0.0.0.0:{port}") as (_, said):
        found = re.fullmatch(rf"the page: (http://ADDRESS-OF-THIS-HOST:{port})"
                             r"(/\?token=[\w-]{32}) "
                             r"\(Ctrl-C ends it\)\n", said)
        assert found
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as browser:
            for path, status in (("/", 403), (found[2], 200)):
                browser.request("GET", path)
                answer = browser.getresponse()
                answer.read()
                assert answer.status == status


@pytest.mark.parametrize(("at", "said"), [
    ("localhost:8118", "ui localhost:8118: want ADDRESS:PORT, as in 127.0.0.1:9500 or [::1]:9500"),
    ("127.0.0.1", "ui 127.0.0.1: want ADDRESS:PORT"), ("", "ui: want ADDRESS:PORT"),
    ("127.0.0.1:0", "ui 127.0.0.1:0: want a port from"),
    ("127.0.0.1:61001", "ui 127.0.0.1:61001: the port is one of --port-range=61000-65535")])
def test_bad_addresses(at: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", at]) == 2
    assert said in capsys.readouterr().err


def test_an_address_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "192.0.2.1:8118"]) == 1
    assert "choose another address for `slim ui`" in capsys.readouterr().err
