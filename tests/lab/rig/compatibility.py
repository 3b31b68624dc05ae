"""Writes the table of docs/compatibility.md, as a pytest plugin for `make test-all`.

A row is a feature (the tests' mark), a column one of the labs, a cell the result of their tests.
Text around the table stays.  Tests may run in several processes, so what a process knows of a test
travels in the test's report.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.lab.rig.dockers import LABS, MISSING, MIXED
from tests.support.run.tiers import lab_of

DOC = Path(__file__).resolve().parents[3] / "docs/compatibility.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->\n)", re.S)

_CELL, _VERSION = "cell", "version"  # properties of a report: feature and lab; dockerd's version

_asked: dict[str, str] = {}  # lab of this process: its dockerd's version
_worst: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # (feature, lab): {test: outcome}
_missing: dict[tuple[str, str], str] = {}  # (feature, lab): what this machine lacks for it
_names: dict[str, str] = {MIXED: "a host of each"}  # heads of columns


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark, lab = item.get_closest_marker("feature"), lab_of(item)
    if mark is not None and lab is not None:
        report.user_properties.append((_CELL, [mark.args[0], lab]))
        up = getattr(item, "funcargs", {}).get("lab")
        if up is not None and lab not in _asked:
            said = up.hosts[0].docker("version", "-f", "{{.Server.Version}}")
            _asked[lab] = said.partition("+")[0]
        if lab in _asked:
            report.user_properties.append((_VERSION, _asked[lab]))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties = dict(report.user_properties)
    if _CELL not in properties:
        return
    feature, lab = map(str, properties[_CELL])  # type: ignore[call-overload]
    if _VERSION in properties:
        _names.setdefault(lab, str(properties[_VERSION]))
    if MISSING in properties:
        _missing[feature, lab] = str(properties[MISSING])
    tests = _worst[feature, lab]
    if tests.get(report.nodeid, "passed") == "passed":  # set-up, the test itself, what it left
        tests[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Replace the rows whose tests ran; the others stay."""
    if hasattr(session.config, "workerinput"):
        return  # the parent process has all reports
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
    """Return a sort key: rows in the order of tests, those of later labs alone last."""
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
