"""Tests the command line of `slim cluster`."""

from __future__ import annotations

import pytest

from driver import __main__
from driver.__main__ import make_parser
from driver.errors import SettingsError
from driver.settings import Settings


@pytest.mark.parametrize("line", [
    "cluster", "cluster nothing", "cluster join", "cluster join 10.0.0.1", "cluster restore",
    "cluster init --certificate-days 0", "cluster init --certificate-days -1",
    "cluster init --certificate-days nan", "cluster init --valid x", "cluster token --valid -2",
    "cluster remove", "cluster status --rotate"])
def test_wrong_lines(line: str) -> None:
    with pytest.raises(SettingsError):
        make_parser().parse_args(line.split())


def test_defaults() -> None:
    found = make_parser().parse_args(["cluster", "init"])
    assert (found.certificate_days, found.valid) == (90 * 86400, 24 * 3600)
    assert make_parser().parse_args(["cluster", "token", "--valid", "0"]).valid == 0


@pytest.mark.parametrize(("line", "option", "value"), [
    ("backup x", "file", "x"), ("restore x", "file", "x"), ("remove h1", "which", "h1"),
    ("join fd00::1 t", "member", "fd00::1"), ("leave --last", "last", True)])
def test_commands_get_what_was_typed(line: str, option: str, value: object,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Other commands have options of the same names."""
    given: list[object] = []

    def cluster(command: str, options: dict[str, object], _: Settings) -> int:
        given.append((command, options[option]))
        return 0

    monkeypatch.setattr(__main__, "cluster", cluster)
    assert __main__.main(["cluster", *line.split()]) == 0
    assert given == [(line.split(maxsplit=1)[0], value)]
