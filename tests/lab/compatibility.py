"""Writes the table of docs/compatibility.md, as a plugin of pytest: see `make compatibility`.

A row is a feature (the tests' mark), a column one of the labs, a cell what became of their tests.
It knows nothing of the features; text around the table is left as it is.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.lab.dockers import LABS, MISSING, MIXED

DOC = Path(__file__).resolve().parent.parent.parent / "docs/compatibility.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->\n)", re.S)

_OF_ALL_RELEASES = ("plugged", "alone")  # fixtures that make a lab of their own

_worst: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # (feature, lab): {test: outcome}
_missing: dict[tuple[str, str], str] = {}  # what the machine of the run has not
_names: dict[str, str] = {MIXED: "a host of each"}  # lab: what its dockerd says it is


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark, used = item.get_closest_marker("feature"), getattr(item, "callspec", None)
    lab = used.params.get("lab") if used is not None else None
    if lab is None and set(_OF_ALL_RELEASES) & set(getattr(item, "fixturenames", ())):
        lab = MIXED
    if mark is None or lab is None:
        return report
    if lab not in _names and (up := getattr(item, "funcargs", {}).get("lab")) is not None:
        _names[lab] = up.hosts[0].docker("version", "-f", "{{.Server.Version}}").partition("+")[0]
    for name, value in report.user_properties:
        if name == MISSING:
            _missing[mark.args[0], lab] = str(value)
    tests = _worst[mark.args[0], lab]
    if tests.get(item.nodeid, "passed") == "passed":  # set-up, the test itself, what it left
        tests[item.nodeid] = report.outcome
    return report


def pytest_sessionfinish() -> None:
    """Rows of which no test ran stay: a run of one file writes that file's rows."""
    text = DOC.read_text()
    old = [[cell.strip() for cell in line.split("|")[1:-1]]
           for line in TABLE.findall(text)[0].splitlines()]
    rows = {feature: cells for feature, *cells in old[2:]}
    for feature in dict.fromkeys(name for name, _ in sorted(_worst, key=_place)):
        rows[feature] = [_cell(feature, lab) for lab in LABS]
    heads = [_names.get(lab, head) for lab, head in zip(LABS, old[0][1:], strict=True)]
    lines = [["", *heads], ["---"] * (len(LABS) + 1), *([name, *rows[name]] for name in rows)]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    DOC.write_text(TABLE.sub(lambda _: table, text))


def _place(key: tuple[str, str]) -> int:
    """Rows in the order of the tests, those of one lab alone last."""
    return LABS.index(key[1])


def _cell(feature: str, lab: str) -> str:
    counted = Counter(_worst.get((feature, lab), {}).values())
    if not counted:
        return ""
    if counted["failed"]:
        return f"**no**: {counted['failed']} of {counted.total()} tests fail"
    if (feature, lab) in _missing:
        return f"no: {_missing[feature, lab]}"
    return "not tested" if counted["skipped"] else "yes"
