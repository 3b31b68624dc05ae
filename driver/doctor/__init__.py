"""Runs `slim doctor` as a user sees it: lines and exit status.

checks.py has the checks.
"""

from __future__ import annotations

from driver.doctor.checks import findings
from driver.settings import Settings
from driver.work.shown import plain


def run_doctor(settings: Settings) -> int:
    """Print a line for each check as it is done; return 0 if all pass, else 1."""
    failed = 0
    for finding in findings(settings):
        print(plain(finding), flush=True)
        failed += finding.problem is not None
    return 1 if failed else 0
