"""Owns `slim doctor` as a user sees it: lines and exit status.

What is checked stands in checks.py; this module must not know any of it.
"""

from __future__ import annotations

from driver.doctor.checks import findings
from driver.settings import Settings


def run_doctor(settings: Settings) -> int:
    """Print a line for each check as it is done; return 0 if all are well, else 1."""
    failed = 0
    for finding in findings(settings):
        print(finding, flush=True)
        failed += finding.problem is not None
    return 1 if failed else 0
