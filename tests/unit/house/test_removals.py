"""Tests that docs/ names every place in the code that removes something, and why it may."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.run.removals import Site, sites

SECTION = "## What is removed, and on whose word"
PAGES = ("state.md", "cluster-state.md")
HOW = f"docs/{' or '.join(PAGES)}, section {SECTION[3:]!r}, third column"


def table(text: str) -> dict[str, str]:
    """Return the places (a function, `module.*` or `module.Class.*`) -> on whose word."""
    _, _, section = text.partition(SECTION + "\n")
    rows = [line.split("|")[1:-1] for line in section.partition("\n## ")[0].splitlines()
            if line.startswith("|")][2:]
    found: dict[str, str] = {}
    for word, _, where in rows:
        for name in re.findall(r"`([^`]+)`", where):
            assert name not in found, f"{name} stands in two rows"
            found[name] = word.strip()
    return found


def all_of(project: Path) -> dict[str, str]:
    """Return the tables of all pages together."""
    found: dict[str, str] = {}
    for page in PAGES:
        rows = table((project / "docs" / page).read_text())
        assert not found.keys() & rows.keys()
        found |= rows
    return found


def named(function: str, names: set[str]) -> str:
    """Return the name by which the table has the function; "" if it has none."""
    parts = function.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        for name in (prefix, f"{prefix}.*"):
            if name in names and (end == len(parts) or name.endswith("*")):
                return name
    return ""


@pytest.fixture(scope="module")
def found(project: Path) -> list[Site]:
    return sites(project / "driver")


def test_every_removal_is_in_the_list(project: Path, found: list[Site]) -> None:
    names = set(all_of(project))
    missing = [f"{site.function} (line {site.line}: {site.what})" for site in found
               if not named(site.function, names)]
    assert missing == [], f"on whose word? Say it in {HOW}"


def test_the_list_names_nothing_else(project: Path, found: list[Site]) -> None:
    names = set(all_of(project))
    used = {named(site.function, names) for site in found}
    assert names - used == set(), f"nothing is removed there any more: {HOW}"


def test_who_decides_is_named_function_by_function(project: Path) -> None:
    """The table may name a module or class as a whole only if it obeys or harms nobody."""
    word_of = all_of(project)
    assert [name for name, word in word_of.items() if name.endswith("*")
            and not word.startswith(("whoever calls it", "nobody's"))] == []


CODE = '''
from driver import tools
class Links:
    def delete_link(self): ...
    def clear(self):
        self._ready.discard(1)
        self._lock.release()
    def run(self):
        def inner():
            self._links.delete_link(2)
        self._try("delete", self._links.delete_link, 3)
        return [inner]
    def release(self):
        self._names.discard(1)
def remove_all(path, netlink):
    path.unlink()
    netlink.link("del", index=1)
def own(change):
    remove_all(1, 2)
    change.ops.append(Delete("key"))
    {1}.remove(1)
    tools.remove_all(3)
'''


def test_what_counts_as_a_removal(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(CODE)
    assert [(site.function, site.what) for site in sites(tmp_path)] == [
        ("x.Links.run", "delete_link"), ("x.Links.run", "delete_link"), ("x.own", "remove_all"),
        ("x.own", "Delete"), ("x.own", "remove_all"), ("x.remove_all", "unlink"),
        ("x.remove_all", "link('del')")]


def test_names_of_the_table() -> None:
    names = {"a.B.c", "d.*", "e.F.*"}
    assert [named(each, names) for each in (
        "a.B.c", "a.B.cd", "d.X.y", "e.F.g", "e.G.g", "d")] == [
        "a.B.c", "", "d.*", "e.F.*", "", "d.*"]
