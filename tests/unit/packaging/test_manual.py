"""Tests what the Debian package's build makes of the command's parser."""

from __future__ import annotations

import importlib.util
import tomllib
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType

import pytest

from driver import settings
from driver.__main__ import make_parser


@pytest.fixture
def generate(project: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", project / "packaging/deb/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_setting_is_in_the_manual_once(generate: ModuleType) -> None:
    text = generate.manual(make_parser()).replace("\\-", "-")
    for name, _ in generate.commands(make_parser()):
        assert text.count(f".TP\n\\fB{name}\\fR") == 1, name
    for flag, *_ in settings.describe():
        assert text.count(f".TP\n\\fB{flag}\\fR") == 1, flag
    assert "\\fB--alive\\fR: also if its driver runs" in text


def test_commands_below_commands_are_followed(generate: ModuleType) -> None:
    parser = ArgumentParser(prog="slim", description="does things")
    below = parser.add_subparsers(metavar="COMMAND").add_parser("cluster").add_subparsers()
    below.add_parser("init", description="begin it").add_argument("--name", help=".first word")
    below.add_parser("leave", description="'end it'")
    assert [name for name, _ in generate.commands(parser)] == [
        "slim cluster init", "slim cluster leave"]
    text = generate.manual(parser)
    assert "\\fBslim cluster leave\\fR\n\\&'end it'.\n" in text, "no line begins with a ' or a dot"
    assert "[\\fB\\-\\-name\\fR \\fINAME\\fR]" in text


def test_the_settings_file_has_every_setting_and_says_nothing(generate: ModuleType) -> None:
    text = generate.settings_file()
    assert tomllib.loads(text) == {}
    said = tomllib.loads("\n".join(line[1:] for line in text.splitlines()
                                   if line.startswith("#") and " = " in line))
    assert said == {flag.removeprefix("--"): default
                    for flag, _, default, _ in settings.describe()}
