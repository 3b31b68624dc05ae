"""Owns the command line: `slim serve|doctor|status|...`, and the daemon's signals.

It must not know how anything is done; each command imports only what it needs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from argparse import ArgumentParser

from driver import __version__, memory
from driver import settings as settings_module
from driver.errors import SettingsError, SlimError
from driver.settings import Settings

EXIT_FAILED = 1
EXIT_USAGE = 2
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def make_parser() -> ArgumentParser:
    """Build the parser of the whole command line."""
    parser = settings_module.OneLineParser(
        prog="slim", description="Docker network driver whose container connections are host "
        "connections")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND",
                                     parser_class=settings_module.OneLineParser)
    for name, about in (("serve", "run the driver until SIGTERM or SIGINT"),
                        ("doctor", "check what the driver needs from this host"),
                        ("status", "say how the running driver is"),
                        ("counters", "print the running driver's counters"),
                        ("cleanup", "after the driver has stopped: remove what outlives it"),
                        ("version", "print the version")):
        command = commands.add_parser(name, help=about, description=about)
        if name != "version":
            settings_module.add_options(command)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 1 (failed) or 2 (wrong use)."""
    try:
        options = vars(make_parser().parse_args(arguments))
        command = options.pop("command")
        if command == "version":
            print(f"slim {__version__}")
            return 0
        settings = settings_module.load(options, os.environ)
    except SettingsError as error:
        print(f"slim: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return {"serve": serve, "doctor": doctor, "status": status,
                "counters": counters, "cleanup": cleanup}[command](settings)
    except SettingsError as error:
        print(f"slim: {error}", file=sys.stderr)
        return EXIT_USAGE
    except SlimError as error:
        print(f"slim {command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED


def serve(settings: Settings) -> int:
    """Run the driver until it is told to stop."""
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    memory.limit_arenas()
    from driver.compose import build_everything  # noqa: PLC0415 - loads etcd, bcc, pyroute2

    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    driver = build_everything(settings)
    try:
        driver.start()
        memory.settle()
        told.wait()
    finally:
        driver.stop()
    return 0


def doctor(settings: Settings) -> int:
    """Check this host."""
    from driver import doctor as checks  # noqa: PLC0415

    return checks.run_doctor(settings)


def status(settings: Settings) -> int:
    """Show the daemon's state, one part a line."""
    return _show(settings, "Slim.Status", "Status")


def counters(settings: Settings) -> int:
    """Print name and value of each counter, one a line."""
    return _show(settings, "Slim.Counters", "Counters")


def _show(settings: Settings, call: str, part: str) -> int:
    """Print a table of the running daemon.  Errors: NotRunningError, SlimError."""
    from driver.control_client import ask  # noqa: PLC0415

    found = ask(settings.socket, call)[part]
    if not isinstance(found, dict):
        raise SlimError(f"{settings.socket} answers no {part.lower()}")
    width = max(map(len, found), default=0)
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")
    return 0


def cleanup(settings: Settings) -> int:
    """Detach programs, remove pins and the VXLAN device."""
    from driver.cleanup import run_cleanup  # noqa: PLC0415

    return run_cleanup(settings)


if __name__ == "__main__":
    sys.exit(main())
