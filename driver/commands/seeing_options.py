"""Defines the arguments of `slim ss`, `slim why`, `slim flows` and `slim ui`."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Final

_PATHS: Final = ("host", "overlay", "local", "outside")
_VERDICTS: Final = ("host", "overlay", "local", "refused")
UI_AT: Final = "127.0.0.1:8118"  # where `slim ui` serves, if it is not told


def add_seeing_options(name: str, parser: ArgumentParser) -> None:
    """Add them to the parser of the command `name`."""
    if name == "ss":
        parser.add_argument("container", nargs="?", default="",
                            help="its name or id; none: all of this host")
        parser.add_argument("--network", default="", help="only that one's: its name, subnet or id")
        parser.add_argument("--path", dest="only_path", default="", choices=_PATHS,
                            metavar="|".join(_PATHS), help="only connections that go that way")
        parser.add_argument("--listening", action="store_true",
                            help="listeners instead of connections")
        parser.add_argument("--all", dest="everything", action="store_true",
                            help="also what is in no slim network")
    elif name == "flows":
        parser.add_argument("container", nargs="?", default="",
                            help="its name or id; none: all of this host")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--follow", action="store_true",
                          help="until it is interrupted, not only for 5 s")
        what.add_argument("--refused", action="store_true",
                          help="what was refused before, and nothing else")
        parser.add_argument("--network", default="", help="only that one's: its name, subnet or id")
        parser.add_argument("--verdict", default="", choices=_VERDICTS,
                            metavar="|".join(_VERDICTS), help="only connections that go that way")
        parser.add_argument("--reason", default="",
                            help="only with that reason: the name of a counter")
    else:
        parser.add_argument("container", metavar="A", help="a container of this host")
        parser.add_argument("target", metavar="B[:PORT]",
                            help="a container on any host, or an address")
    parser.add_argument("--json", dest="as_json", action="store_true", help="for programs")


def sockets_request(network: str, options: dict[str, Any]) -> dict[str, object]:
    """Return the request of Slim.Sockets that these arguments of `slim ss` ask for."""
    return {"Container": options["container"], "Network": network, "Path": options["only_path"],
            "Listening": options["listening"], "All": options["everything"]}


def flows_request(network: str, options: dict[str, Any]) -> dict[str, object]:
    """Return the request of Slim.Flows that these arguments of `slim flows` ask for."""
    return {"Container": options["container"], "Network": network, "Verdict": options["verdict"],
            "Reason": options["reason"]}


def add_ui_argument(parser: ArgumentParser) -> None:
    """Add the argument of `slim ui`."""
    parser.add_argument("at", nargs="?", default=UI_AT, metavar="ADDRESS:PORT",
                        help=f"where to serve it (default {UI_AT})")
