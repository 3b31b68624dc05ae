"""Tests the command line of `slim cluster`."""

from __future__ import annotations

import pytest

from driver.__main__ import make_parser
from driver.errors import SettingsError


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
