"""Tests examples/monitoring with promtool: each alert fires when it is to, and not before."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.metrics import promtool

CASES = Path(__file__).with_name("alerts.test.yml")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False,
                          timeout=120)


@pytest.mark.parametrize("arguments", [
    ("check", "config", "examples/monitoring/prometheus.yml"),
    ("check", "rules", "examples/monitoring/alerts.yml")])
def test_the_files_are_right(project: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments[:-1], str(project / arguments[-1]))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_and_do_not_fire() -> None:
    done = run("test", "rules", str(CASES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_of_both_kinds(project: Path) -> None:
    alerts = re.findall(r"- alert: (\w+)", (
        project / "examples/monitoring/alerts.yml").read_text())
    cases = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", CASES.read_text())
    assert len(alerts) >= 8
    assert {name for name, none in cases if none} == set(alerts), "does not fire"
    assert {name for name, none in cases if not none} == set(alerts), "fires"
