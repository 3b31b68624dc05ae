"""Reads how often the kernel has run each program, and for how long, if it counts that.

While `sysctl kernel.bpf_stats_enabled=1` is set it does, which costs each run some tens of ns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from driver.errors import DatapathError

_FIELD = re.compile(r"^(run_cnt|run_time_ns):\s*(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Runs:
    """Of one program, since it was loaded and while they were counted."""

    count: int
    seconds: float


def program_runs(programs: Mapping[str, int], proc: Path = Path("/proc")) -> dict[str, Runs]:
    """Return program -> runs; empty: the kernel does not count now.

    programs: name -> descriptor, of this process.  Error: DatapathError.
    """
    try:
        if (proc / "sys/kernel/bpf_stats_enabled").read_text().strip() != "1":
            return {}
        found = {name: dict(_FIELD.findall((proc / f"self/fdinfo/{fd}").read_text()))
                 for name, fd in programs.items()}
    except OSError as error:
        raise DatapathError(f"the programs' run counts cannot be read: {error}") from error
    return {name: Runs(int(each["run_cnt"]), int(each["run_time_ns"]) / 1e9)
            for name, each in found.items() if len(each) == 2}
