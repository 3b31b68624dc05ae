"""Tests scripts/page.sh with an npm that only pretends: when it asks, and what it keeps."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

VENDOR = "driver/api/page/static/vendor"
PROGRAMS = ("bash", "cp", "dirname", "install", "mktemp", "readlink", "rm", "sha256sum")
NPM = """#!/bin/bash
[[ -e package-lock.json ]] || exit 1
echo "$*" >> @CALLS@
mkdir -p node_modules/uplot/dist
echo MIT > node_modules/uplot/LICENSE
cat package-lock.json > node_modules/uplot/dist/uPlot.esm.js
echo x > node_modules/uplot/dist/uPlot.min.css
"""


class Checkout:
    """What the script needs, in a folder of its own."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.programs = folder / "bin"
        self.calls = folder / "calls"
        self.lock = self.folder / "packaging/page/package-lock.json"
        shutil.copytree(project / "packaging/page", self.lock.parent)
        (self.folder / "scripts").mkdir()
        shutil.copy2(project / "scripts/page.sh", self.folder / "scripts")
        self.programs.mkdir()
        for name in (*PROGRAMS, "mkdir", "cat"):
            (self.programs / name).symlink_to(str(shutil.which(name)))

    def npm(self, text: str = NPM) -> None:
        (self.programs / "npm").write_text(text.replace("@CALLS@", str(self.calls)))
        (self.programs / "npm").chmod(0o755)

    def fetch(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(self.folder / "scripts/page.sh")], text=True, check=False,
                              capture_output=True, env={"PATH": str(self.programs)})

    @property
    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def checkout(project: Path, tmp_path: Path) -> Checkout:
    return Checkout(project, tmp_path)


def test_it_asks_once(checkout: Checkout) -> None:
    checkout.npm()
    assert checkout.fetch().returncode == 0
    found = sorted(str(each.relative_to(checkout.folder / VENDOR))
                   for each in (checkout.folder / VENDOR).rglob("*") if each.is_file())
    assert found == ["made.sha256", "uplot/LICENSE", "uplot/uPlot.esm.js", "uplot/uPlot.min.css"]
    assert len(checkout.asked) == 1
    assert checkout.asked[0].startswith("ci --ignore-scripts --omit=dev --no-audit --no-fund ")
    (checkout.programs / "npm").unlink()
    done = checkout.fetch()
    assert (done.returncode, done.stderr) == (0, ""), "nobody is asked again"


def test_another_lock_file_is_another_fetch(checkout: Checkout) -> None:
    checkout.npm()
    checkout.fetch()
    checkout.lock.write_text(checkout.lock.read_text().replace("1.6.32", "1.6.33"))
    assert checkout.fetch().returncode == 0
    assert "1.6.33" in (checkout.folder / VENDOR / "uplot/uPlot.esm.js").read_text()
    assert len(checkout.asked) == 2


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("another")])
def test_files_that_were_changed_are_fetched_anew(checkout: Checkout,
                                                  spoil: Callable[[Path], object]) -> None:
    checkout.npm()
    checkout.fetch()
    file = checkout.folder / VENDOR / "uplot/uPlot.esm.js"
    before = file.read_text()
    spoil(file)
    assert checkout.fetch().returncode == 0
    assert file.read_text() == before
    assert len(checkout.asked) == 2


def test_without_npm_it_says_what_to_do(checkout: Checkout) -> None:
    done = checkout.fetch()
    assert done.returncode == 1
    assert "apt-get install npm, then make page" in done.stderr
    assert not (checkout.folder / VENDOR).exists()


def test_a_fetch_that_fails_takes_nothing_away(checkout: Checkout) -> None:
    checkout.npm()
    checkout.fetch()
    checkout.lock.write_text(checkout.lock.read_text() + "\n")
    checkout.npm("#!/bin/bash\necho no network >&2; exit 1\n")
    done = checkout.fetch()
    assert done.returncode == 1
    assert "no network" in done.stderr
    assert (checkout.folder / VENDOR / "uplot/uPlot.esm.js").exists()


def test_packages_are_pinned_by_hash_and_name_no_registry(project: Path) -> None:
    wanted = json.loads((project / "packaging/page/package.json").read_text())["dependencies"]
    assert all(version[0].isdigit() for version in wanted.values()), "exact versions"
    text = (project / "packaging/page/package-lock.json").read_text()
    locked = json.loads(text)["packages"]
    assert {name.removeprefix("node_modules/"): each["version"]
            for name, each in locked.items() if name} == wanted
    assert all(each["integrity"].startswith("sha512-") for name, each in locked.items() if name)
    assert "://" not in text
