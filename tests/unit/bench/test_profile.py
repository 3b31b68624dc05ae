"""Tests how bench.studies.profile reads perf's samples."""

from __future__ import annotations

import pytest

from bench.studies import cost
from bench.studies.profile import (
    GROUPS,
    OTHER,
    USER,
    Profile,
    group_of,
    middle_of,
    stacks,
    table,
)

SCRIPT = """\
netbench
\tffffffff81000010 tcp_sendmsg_locked
\tffffffff81000020 tcp_sendmsg
\t    7f0000001234 __send

python3
\tffffffff81000010 tcp_sendmsg

swapper
\tffffffff81000030 pv_native_safe_halt
\tffffffff81000040 do_idle

ksoftirqd/0
\tffffffffc0000010 bpf_prog_1234_from_wire
\tffffffff81000050 cls_bpf_classify
"""


def test_samples_of_other_programs_do_not_count() -> None:
    assert list(stacks(SCRIPT.splitlines())) == [
        ["tcp_sendmsg_locked", "tcp_sendmsg", ""], ["pv_native_safe_halt", "do_idle"],
        ["bpf_prog_1234_from_wire", "cls_bpf_classify"]]
    assert list(stacks([])) == []


@pytest.mark.parametrize(("frames", "group"), [
    ([], USER), ([""], USER), (["pv_native_safe_halt", "do_idle"], ""),
    (["something_new"], OTHER), (["memcpy", "nf_conntrack_in", "nf_hook_slow", "ip_rcv"],
                                 "connection tracking, NAT, rules"),
    (["_raw_spin_lock", "htab_map_update_elem", "bpf_prog_1_connect4"], "eBPF programs and maps"),
    (["fib_table_lookup", "tcp_v4_connect"], "routes and policy rules"),
    (["_raw_spin_unlock_bh", "tcp_v4_rcv", "ip_local_deliver"], "TCP")])
def test_the_innermost_function_decides(frames: list[str], group: str) -> None:
    assert group_of(frames) == group


def test_what_slim_adds_comes_first() -> None:
    host = Profile(10, {"TCP": 8, "IP": 2})
    slim = middle_of([Profile(14, {"TCP": 7, "IP": 7}), Profile(15, {"TCP": 8, "IP": 7}),
                      Profile(99, {"TCP": 9, "IP": 90})])
    rows = table("connections", {cost.HOST: host, cost.SLIM: slim})
    assert rows[2] == "| IP | 2.00 | 7.00 | +5.00 |"
    assert rows[-1] == "| all | 10.00 | 15.00 | +5.00 |"
    assert len(rows) == len(GROUPS) + 5
