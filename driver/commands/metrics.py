"""Runs `slim metrics`: prints what Prometheus would read, for a person or a file."""

from __future__ import annotations

from driver.commands.control_client import ask
from driver.commands.saying import say
from driver.errors import SlimError
from driver.settings import Settings


def run_metrics(settings: Settings) -> int:
    """Print the text; return 0.  Errors: NotRunningError, SlimError."""
    text = ask(settings.socket, "Slim.Metrics").get("Metrics")
    if not isinstance(text, str):
        raise SlimError(f"{settings.socket} answers no metrics")
    say(*text.removesuffix("\n").split("\n"))
    return 0
