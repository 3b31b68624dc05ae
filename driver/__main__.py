"""Parses the command line (`slim serve|doctor|status|...`) and handles the daemon's signals.

Each command imports only what it needs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from driver import __version__
from driver import settings as settings_module
from driver.commands.cluster.parser import add_cluster_parser
from driver.commands.saying import say
from driver.commands.seeing_options import (
    add_seeing_options,
    add_ui_argument,
    flows_request,
    sockets_request,
)
from driver.commands.top_options import add_top_options
from driver.errors import DOES_NOT_START, SettingsError, SlimError
from driver.process import memory, priority, readiness
from driver.settings import Settings
from driver.work import logs

EXIT_FAILED = 1
EXIT_USAGE = 2


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
                        ("metrics", "print the running driver's metrics, in Prometheus' format"),
                        ("hosts", "list the hosts that etcd knows, alive or not"),
                        ("test", "test the ways between all hosts, from the hosts themselves"),
                        ("names", "list containers' names, on all hosts of their networks"),
                        ("ss", "list the open TCP connections of this host's containers"),
                        ("top", "show who talks to whom now, the busiest first"),
                        ("why", "say which way a connection would take now, and why"),
                        ("flows", "show connections as they open and close, and what is refused"),
                        ("ui", "serve a page of the cluster for browsers, until it is stopped"),
                        ("support", "write what somebody who helps needs to see of this host"),
                        ("forget-host", "remove all that a dead host has in etcd"),
                        ("adopt-cluster", "have this host belong to the cluster that etcd is of"),
                        ("cleanup", "after the driver has stopped: remove what outlives it"),
                        ("version", "print the version")):
        # The `--cluster` of `slim top` replaces the setting's, which it has no use for.
        command = commands.add_parser(name, help=about, description=about, conflict_handler=(
            "resolve" if name == "top" else "error"))
        if name != "version":
            settings_module.add_options(command)
        if name == "names":
            command.add_argument("network", nargs="?", default="",
                                 help="its name, subnet or id; none: all networks of this host")
        if name == "test":
            command.add_argument("--host", default="", help="only ways from and to this host")
            command.add_argument("--from-here", action="store_true",
                                 help="only ways from this host")
            command.add_argument("--json", action="store_true", help="print JSON")
        if name == "support":
            command.add_argument("file", help="to be made; its name ends in .tar.gz")
        if name in ("ss", "why", "flows"):
            add_seeing_options(name, command)
        if name == "top":
            add_top_options(command)
        if name == "ui":
            add_ui_argument(command)
        if name == "forget-host":
            command.add_argument("host", help="its name or id, as `slim hosts` shows them")
            command.add_argument("--alive", action="store_true",
                                 help="also if its driver runs: its containers lose their networks")
    add_cluster_parser(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (failed) or 2 (usage error)."""
    command = ""
    try:
        options = vars(make_parser().parse_args(arguments))
        command = options.pop("command")
        if command == "version":
            say(f"slim {__version__}")
            return 0
        host, alive = options.pop("host", ""), options.pop("alive", False)
        network = options.pop("network", None) or ""
        file = options.pop("file", "") if command == "support" else ""
        from_here, as_json = options.pop("from_here", False), options.pop("json", False)
        cluster_command = options.pop("cluster_command", "")
        settings = settings_module.load(options, settings_module.with_plain_names(os.environ))
    except SettingsError as error:
        return _failed(command, error)
    try:
        commands: dict[str, Callable[[Settings], int]] = {
            "serve": serve, "doctor": doctor, "status": status, "counters": counters,
            "metrics": metrics,
            "adopt-cluster": adopt_cluster, "cleanup": cleanup, "hosts": hosts,
            "forget-host": partial(forget_host, host, alive),
            "names": partial(names, network),
            "support": partial(support, file),
            "test": partial(test, host, from_here, as_json),
            "ss": partial(ss, network, options), "why": partial(why, options),
            "top": partial(top, options),
            "flows": partial(flows, network, options),
            "ui": partial(ui, options.get("at", "")),
            "cluster": partial(cluster, cluster_command, options)}
        return commands[command](settings)
    except SlimError as error:
        return _failed(command, error, settings)
    except BrokenPipeError:
        return EXIT_FAILED
    except Exception as error:
        if not _refuses(command):
            raise
        logs.begin()
        logging.getLogger("slim").exception("an error in slim itself")
        return _refuse(SlimError(f"an error in slim itself, {type(error).__name__}: {error}"),
                       settings)


def _failed(command: str, error: SlimError, settings: Settings | None = None) -> int:
    if _refuses(command):
        return _refuse(error, settings)
    if isinstance(error, SettingsError):
        say(*f"slim: {error}".split("\n"), to_errors=True)
        return EXIT_USAGE
    say(*f"slim {command}: {error}".split("\n"), to_errors=True)
    return EXIT_FAILED


def _refuses(command: str) -> bool:
    return command == "serve" and settings_module.keeps_answering(os.environ)


def _refuse(error: SlimError, settings: Settings | None) -> int:
    """Answer every request with the reason for a while, then start again.

    settings: None, if they cannot be read.
    """
    from driver.compose import refusing  # noqa: PLC0415 - loads flask

    logs.begin()
    reason = str(error)
    if os.environ.get(settings_module.PLAIN_NAMES):  # as `docker plugin set` knows them
        reason = reason.replace(settings_module.ENV_PREFIX, "")
    reason = " ".join(f"{DOES_NOT_START}: {reason}".split())
    wrong = isinstance(error, SettingsError)
    try:
        ended = refusing.refuse_all(
            settings.socket if settings else settings_module.socket_path(os.environ), reason,
            settings.scope if settings else None, refusing.LATER_S if wrong else refusing.SOON_S,
            partial(readiness.tell_ready, os.environ, reason))
    except SlimError as second:  # somebody else serves the socket
        say(f"{reason}; {second}", to_errors=True)
        return EXIT_USAGE if wrong else EXIT_FAILED
    if not ended:
        _begin_anew()
    return 0


def serve(settings: Settings) -> int:
    """Run the driver until it is told to stop."""
    logs.begin(settings.log_level.upper(), settings.log_format)
    memory.limit_arenas()
    priority.open_many_files()
    from driver.compose.claims import claim  # noqa: PLC0415

    told, moved, wake = threading.Event(), threading.Event(), threading.Event()

    def note(event: threading.Event) -> None:
        event.set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: note(told))
    claims = claim(settings)
    with ExitStack() as held:
        held.callback(claims.close)
        from driver.compose.build import build_everything  # noqa: PLC0415 - etcd, bcc, pyroute2

        held.pop_all()
    driver = build_everything(settings, partial(note, moved), claims)
    priority.go_before_others()  # only now: compiling may wait
    try:
        driver.start()
        memory.settle()
        readiness.tell_ready(os.environ)
        wake.wait()
    finally:
        driver.stop()
    if not told.is_set():
        # The underlay's address is compiled into the programs.  A new process builds them again
        # and replaces them, as after an upgrade: containers and links stay.
        _begin_anew()
    return 0


def _begin_anew() -> NoReturn:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def doctor(settings: Settings) -> int:
    """Check this host."""
    from driver import doctor as checks  # noqa: PLC0415

    return checks.run_doctor(settings)


def status(settings: Settings) -> int:
    """Print the daemon's state, one part per line."""
    return _show(settings, "Slim.Status", "Status")


def counters(settings: Settings) -> int:
    """Print the name and value of each counter, one per line."""
    return _show(settings, "Slim.Counters", "Counters")


def metrics(settings: Settings) -> int:
    """Print what Prometheus would read."""
    from driver.commands.metrics import run_metrics  # noqa: PLC0415

    return run_metrics(settings)


def _show(settings: Settings, call: str, part: str) -> int:
    """Print a table of the running daemon.  Errors: NotRunningError, SlimError."""
    from driver.commands.control_client import ask  # noqa: PLC0415

    found = ask(settings.socket, call)[part]
    if not isinstance(found, dict):
        raise SlimError(f"{settings.socket} answers no {part.lower()}")
    width = max(map(len, found), default=0)
    for name, value in found.items():
        say(f"{name:<{width}}  {value}")
    return 0


def hosts(settings: Settings) -> int:
    """List the hosts."""
    from driver.commands.hosts import run_hosts  # noqa: PLC0415

    return run_hosts(settings)


def names(network: str, settings: Settings) -> int:
    """List the names of containers."""
    from driver.commands.names import run_names  # noqa: PLC0415

    return run_names(settings, network)


def test(host: str, from_here: bool, as_json: bool, settings: Settings) -> int:
    """Test the ways between hosts."""
    from driver.commands.test import run_test  # noqa: PLC0415

    return run_test(settings, host, from_here=from_here, as_json=as_json)


def support(file: str, settings: Settings) -> int:
    """Write a file for whoever is asked for help."""
    from driver.commands.support import run_support  # noqa: PLC0415

    return run_support(settings, file)


def ss(network: str, options: dict[str, Any], settings: Settings) -> int:
    """List open connections."""
    from driver.commands.ss import run_ss  # noqa: PLC0415

    return run_ss(settings, sockets_request(network, options), as_json=options["as_json"])


def why(options: dict[str, Any], settings: Settings) -> int:
    """Say which way a connection would take."""
    from driver.commands.why import run_why  # noqa: PLC0415

    return run_why(settings, options["container"], options["target"], as_json=options["as_json"])


def ui(at: str, settings: Settings) -> int:
    """Serve the page."""
    from driver.commands.ui import run_ui  # noqa: PLC0415 - loads flask

    return run_ui(settings, at)


def top(options: dict[str, Any], settings: Settings) -> int:
    """Show who talks to whom."""
    from driver.commands.top import run_top, wanted_of  # noqa: PLC0415

    return run_top(settings, wanted_of(options))


def flows(network: str, options: dict[str, Any], settings: Settings) -> int:
    """Show connections as they open and close, or what was refused."""
    from driver.commands.flows import run_flows  # noqa: PLC0415

    return run_flows(settings, flows_request(network, options), follow=options["follow"],
                     refused=options["refused"], as_json=options["as_json"])


def forget_host(name: str, alive: bool, settings: Settings) -> int:
    """Remove all that a host has in etcd."""
    from driver.commands.hosts import run_forget_host  # noqa: PLC0415

    return run_forget_host(settings, name, alive=alive)


def cluster(command: str, options: dict[str, Any], settings: Settings) -> int:
    """Run a command of `slim cluster`."""
    from driver.commands.cluster.run import run_cluster  # noqa: PLC0415

    return run_cluster(settings, command, options)


def adopt_cluster(settings: Settings) -> int:
    """Make this host a member of etcd's cluster."""
    from driver.commands.adopt_cluster import run_adopt_cluster  # noqa: PLC0415

    return run_adopt_cluster(settings)


def cleanup(settings: Settings) -> int:
    """Detach programs, remove pins and the VXLAN device."""
    from driver.commands.cleanup import run_cleanup  # noqa: PLC0415

    return run_cleanup(settings)


if __name__ == "__main__":
    sys.exit(main())
