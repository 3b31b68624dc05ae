"""Tests that libbpf has every function that we call: else only the first call would fail."""

from __future__ import annotations

import re
from pathlib import Path

from driver.datapath.loading.libbpf import lib

CALL = re.compile(r"\blib\.((?:bpf|btf|bcc)_\w+)")


def test_it_has_all_that_is_called(project: Path) -> None:
    called = {(path.name, name) for path in (project / "driver").rglob("*.py")
              if "driver.datapath.loading.libbpf import" in (text := path.read_text())
              for name in CALL.findall(text)}
    assert len(called) > 10
    assert sorted(each for each in called if not hasattr(lib, each[1])) == []
