"""Writes what the package has from the command's own parser: manual page, completion, settings.

    generate.py FOLDER      slim.8, slim.bash and slim.toml

The completion is shtab's, which only the package's build has (build-requirements.txt).
"""

from __future__ import annotations

import argparse
import sys
from argparse import Action, ArgumentParser
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from driver import __version__, settings
from driver.__main__ import make_parser

FILES = (("/etc/slim/slim.toml", "settings, each as its option is called"),
         ("/etc/slim/cluster", "what `slim cluster` has made: etcd's settings, certificates"),
         ("/var/lib/slim", "the host's id and notes; keep them, and copy them to no other host"),
         ("/var/cache/slim", "compiled programs"))
UNITS = (("slim.service", "the driver; it starts where an etcd has been chosen"),
         ("slim-etcd.service", "this host's member of the cluster's etcd"),
         ("slim-cluster.service", "lets hosts in, chooses etcd's members"))


def commands(parser: ArgumentParser) -> Iterator[tuple[str, ArgumentParser]]:
    """Yield the name, as typed, and the parser of each command that has no commands below it."""
    below = [action for action in parser._actions
             if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for each in action.choices.values():
            yield from commands(each)
    if not below:
        yield parser.prog, parser


def manual(parser: ArgumentParser) -> str:
    """Return the manual page; an option that several commands have stands in it once."""
    found = list(commands(parser))
    times = Counter(_key(action) for _, each in found for action in _options(each))
    lines = [f".TH {parser.prog.upper()} 8 \"\" \"{parser.prog} {__version__}\" "
             "\"System administration\"",
             ".SH NAME", rf"{parser.prog} \- {_text(_small(parser.description))}",
             ".SH SYNOPSIS", f".B {parser.prog}", r"\fICOMMAND\fR [\fIOPTION\fR...]",
             ".SH DESCRIPTION",
             "The options below, under SETTINGS, are the same for all commands that have a",
             r"\fISETTING\fR in their line.", ".SH COMMANDS"]
    shared: dict[tuple[str, ...], Action] = {}
    for name, each in found:
        own = [action for action in _options(each) if times[_key(action)] == 1]
        more = {_key(action): action for action in _options(each) if times[_key(action)] > 1}
        shared |= more
        words = [rf"\fB{_text(name)}\fR", *map(_shown, own), *map(_shown, _places(each))]
        if more:
            words.append(r"[\fISETTING\fR...]")
        lines += [".TP", " ".join(words), _sentence(each.description)]
        for action in (*own, *_places(each)):
            if action.help:
                lines += [".br", f"{_names(action)}: {_text(_help(each, action))}"]
    lines.append(".SH SETTINGS")
    for action in shared.values():
        lines += [".TP", _shown(action).strip("[]"), _text(_help(parser, action))]
    for heading, rows in (("FILES", FILES), ("UNITS", UNITS)):
        lines.append(f".SH {heading}")
        for name, about in rows:
            lines += [".TP", rf"\fI{_text(name)}\fR", _text(about)]
    return "\n".join([*lines, ".SH SEE ALSO", r"\fI/usr/share/doc/slim\fR", ""])


def settings_file() -> str:
    """Return the settings' file: every setting, commented out, with its default."""
    lines = ["# Settings of slim: docs/settings.md in /usr/share/doc/slim, and slim(8).",
             "# After a change: systemctl restart slim",
             "# The driver starts where an etcd is named here, or `slim cluster` has made one."]
    for flag, _, default, about in settings.describe():
        lines += ["", f"# {about}", f'#{flag.removeprefix("--")} = "{default}"']
    return "\n".join([*lines, ""])


def _options(parser: ArgumentParser) -> list[Action]:
    return [action for action in parser._actions
            if action.option_strings and not isinstance(action, argparse._HelpAction)]


def _places(parser: ArgumentParser) -> list[Action]:
    return [action for action in parser._actions if not action.option_strings]


def _key(action: Action) -> tuple[str, ...]:
    return (*action.option_strings, str(action.help))


def _names(action: Action) -> str:
    if action.option_strings:
        return rf"\fB{_text(', '.join(action.option_strings))}\fR"
    return rf"\fI{_text(str(action.metavar or action.dest).upper())}\fR"


def _shown(action: Action) -> str:
    """Return an option or an argument as in a command's line."""
    text = _names(action)
    if action.option_strings and action.nargs != 0:
        text += rf" \fI{_text(str(action.metavar or action.dest.upper()))}\fR"
    return text if action.required else f"[{text}]"


def _help(parser: ArgumentParser, action: Action) -> str:
    """Return an option's help with its default filled in."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _small(text: str | None) -> str:
    return " ".join((text or "").split())


def _sentence(text: str | None) -> str:
    said = _small(text)
    return _text(said[:1].upper() + said[1:] + ("" if said.endswith(".") else "."))


def _text(text: str) -> str:
    """Escape what roff takes for its own."""
    safe = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{safe}" if safe.startswith((".", "'")) else safe


def main(folder: Path) -> None:
    """Write the three files."""
    import shtab  # noqa: PLC0415 - only the package's build has it

    parser = make_parser()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("slim.8", manual(parser)), ("slim.toml", settings_file()),
                       ("slim.bash", shtab.complete(parser, "bash"))):
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
