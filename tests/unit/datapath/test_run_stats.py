"""Tests that programs' run counts are told only while the kernel counts, and as it has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.datapath.loading.run_stats import Runs, program_runs
from driver.errors import DatapathError

FDINFO = """pos:\t0
flags:\t02000002
prog_type:\t18
prog_jited:\t1
prog_tag:\t9ac3f2a8d0b1c2d3
memlock:\t8192
prog_id:\t{id}
run_time_ns:\t{ns}
run_cnt:\t{count}
recursion_misses:\t0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "self/fdinfo").mkdir(parents=True)
    (tmp_path / "sys/kernel/bpf_stats_enabled").write_text("1\n")
    for fd, ns, count in ((7, 2_500_000_000, 1000), (9, 0, 0)):
        (tmp_path / f"self/fdinfo/{fd}").write_text(FDINFO.format(id=fd, ns=ns, count=count))
    return tmp_path


def test_runs_of_each_program(proc: Path) -> None:
    assert program_runs({"connect4": 7, "from_wire": 9}, proc) == {
        "connect4": Runs(1000, 2.5), "from_wire": Runs(0, 0.0)}


def test_a_kernel_that_does_not_count(proc: Path) -> None:
    (proc / "sys/kernel/bpf_stats_enabled").write_text("0\n")
    assert program_runs({"connect4": 7}, proc) == {}


def test_what_cannot_be_read(proc: Path) -> None:
    with pytest.raises(DatapathError, match="cannot be read"):
        program_runs({"connect4": 8}, proc)
