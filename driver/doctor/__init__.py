"""Owns `slim doctor` and `slim status` as a user sees them: lines and exit status.

What is checked stands in checks.py; this module must not know any of it.
"""

from __future__ import annotations

from driver.doctor.checks import findings
from driver.errors import SlimError
from driver.settings import Settings


def run_doctor(settings: Settings) -> int:
    """Print a line for each check as it is done; return 0 if all are well, else 1."""
    failed = 0
    for finding in findings(settings):
        print(finding, flush=True)
        failed += finding.problem is not None
    return 1 if failed else 0


def run_status(settings: Settings) -> int:
    """Print the running daemon's own account.  Errors: NotRunningError, SlimError."""
    from driver.control_client import ask  # noqa: PLC0415

    parts = ask(settings.socket, "Slim.Status")["Status"]
    if not isinstance(parts, dict):
        raise SlimError(f"{settings.socket} answers no status")
    width = max(map(len, parts), default=0)
    for name, line in parts.items():
        print(f"{name:<{width}}  {line}")
    return 0
