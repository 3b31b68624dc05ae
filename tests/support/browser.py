"""Drives Debian's Chromium by WebDriver, which is JSON over HTTP to chromedriver."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.run.wait import wait_until

PROGRAMS: Final = ("chromium", "chromedriver")
TIMEOUT_S: Final = 60.0
_OPTIONS: Final = ("--headless=new", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
                   "--disable-background-networking", "--disable-component-update",
                   "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb")


class Browser:
    """One window."""

    def __init__(self, port: int) -> None:
        """port: chromedriver's."""
        self._port = port
        # Chromium refuses to run as root in its sandbox.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._session = ""
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"args": [*_OPTIONS, *root]}}}})
        self._session = f"/session/{made['sessionId']}"

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, self._session + path,
                               None if method != "POST" else json.dumps(body or {}))
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
        finally:
            connection.close()
        if answer.status != 200:
            raise AssertionError(f"{path}: {value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Return what a function's body returns in the page."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def cdp(self, command: str, **parameters: object) -> Any:
        """Ask by the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """Make the page's area so large, in CSS pixels, of which each is `scale` wide."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=scale, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Be light or dark."""
        self.cdp("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, *keys: str) -> None:
        """Press keys one after the other, as WebDriver writes them."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place in what is seen, in CSS pixels."""
        self._ask("POST", "/actions", {"actions": [{
            "type": "pointer", "id": "m", "parameters": {"pointerType": "mouse"},
            "actions": [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}]}]})

    def console(self) -> list[str]:
        """Return what the console has got since the last question: errors, refusals by CSP."""
        return [each["message"] for each in self._ask("POST", "/se/log", {"type": "browser"})]

    def asked(self) -> list[str]:
        """Return the addresses that have been asked for since the last question."""
        log = [json.loads(each["message"])["message"]
               for each in self._ask("POST", "/se/log", {"type": "performance"})]
        return [each["params"]["request"]["url"] for each in log
                if each["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> None:
        """Save what is seen, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """End the browser."""
        self._ask("DELETE", "")


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser and what drives it.  Both end with the block."""
    missing = [each for each in PROGRAMS if shutil.which(each) is None]
    assert not missing, f"{missing[0]} is missing: scripts/setup.sh --tests"
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "w+") as log:
        environment = os.environ | {"HOME": home, "TMPDIR": home}
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, text=True,
                                  stderr=subprocess.STDOUT, env=environment)
        try:
            window = Browser(wait_until(lambda: _port(Path(home) / "log"), TIMEOUT_S,
                                        "chromedriver listens"))
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
            driver.wait(timeout=TIMEOUT_S)


def _port(log: Path) -> int:
    found = log.read_text().partition("successfully on port ")[2].partition(".")[0]
    return int(found) if found.isdigit() else 0
