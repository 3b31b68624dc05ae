"""Shows where the time of a round trip and of a connection goes: microseconds by kernel function.

    .venv/bin/python -m bench.studies.profile [--rounds 3] [--seconds 2] [--one-host] [--json FILE]

The same ways as bench.studies.cost.  Client and server share a processor: then the time of a
transaction is what both ends take together, nobody waits for an interrupt between processors, and
no sample is lost to sleep.  perf samples with the call chains; each sample counts for the innermost
function that belongs to a group.  Needs perf (Debian: linux-perf).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.harness import bounds
from bench.harness.image import compiled
from bench.harness.measure import turned
from bench.studies import cost

PERIOD_NS = 250_673  # a prime: no lockstep with the kernel's own clock
PROCESSOR = 0  # the first that we may use; the client's, too
# A sample belongs to the first of these, from the innermost function outwards.
GROUPS = tuple((name, re.compile(pattern)) for name, pattern in (
    # Between virtual processors: sending the interrupt leaves the machine.
    ("waiting and waking", r"(sock_def_readable|(__)?ep_poll|do_epoll_wait|__pv_|pv_kick|kvm_|"
     r"finish_task|(__)?schedule|try_to_wake|ttwu|wake_up|autoremove)"),
    ("connection tracking, NAT, rules", r"(__)?(nf_|nft_|ipt_|ip6?t_do|xt_|hash_conntrack|"
     r"nf_conntrack|conntrack|early_drop|selinux)"),
    ("eBPF programs and maps", r"(__)?(bpf_|htab_|array_map|sk_storage|cls_bpf|trie_|___bpf|"
     r"percpu_array|sock_hash|cgroup_bpf|lookup_nulls|lookup_elem|dev_map|tcf_|tcx_|sch_handle)"),
    ("routes and policy rules", r"(__)?(fib|ip_route|rt_|ip_rt_|dst_|ipv4_dst|ip_mkroute|"
     r"inet_addr_type|ip_dev_find|l3mdev|rt_cache)"),
    ("neighbours", r"(__)?(neigh|arp_|ip_finish_output2|eth_header)"),
    ("devices, queues, softirq", r"(__)?(veth|br_|dev_|netif|napi|net_rx|net_tx|process_backlog|"
     r"enqueue_to|sch_|qdisc|skb_do_redirect|handle_softirqs|do_softirq|irq_exit|eth_type|"
     r"validate_xmit|skb_scrub|fib_validate|rps|ksoftirqd|run_ksoftirqd)"),
    ("TCP", r"(__)?(tcp|inet_csk|inet_hash|inet_lookup|inet_bind|inet_twsk|inet_unhash|inet_put|"
     r"inet_get_port|inet_ehash|inet6?_check|reqsk|cookie|bictcp|cubic|secure_tcp|inet_reqsk|"
     r"inet_rtx|sk_reset_timer|inet_twdr|inet_inherit|inet_release|inet_shutdown|inet_child)"),
    ("IP", r"(__)?(ip_|inet_|raw_|icmp|udp)"),
    ("packets' memory", r"(__)?(alloc_skb|kfree_skb|skb_|kmalloc_reserve|consume_skb|sk_stream|"
     r"napi_skb|napi_build|build_skb|page_frag|skb)"),
    ("sockets and files", r"(__)?(sock|sk_|lock_sock|release_sock|fput|alloc_file|alloc_inode|"
     r"d_|dput|iput|evict|inode|fd_|get_unused|close|security|apparmor|sys_|do_sys|x64_sys|ep_|"
     r"eventpoll|mntput|alloc_empty|file_|do_epoll|poll|move_addr|sockfd)"),
    ("scheduler", r"(__)?(sched|pick_|enqueue_task|dequeue|update_|set_next|put_prev|switch_|"
     r"do_idle|cpuidle|tick_|hrtimer|select_task|native_|pv_)"),
    ("memory", r"(__)?(kmem|kfree|kmalloc|slab|___slab|free_|rcu|call_rcu|mod_|memcg|obj_|"
     r"alloc_pages|get_page|put_page|clear_page|page)"),
    ("entry to the kernel", r"(entry_|syscall|do_syscall|exc_|asm_|irqentry|exit_to)"),
))
USER, OTHER = "the program itself", "other"
IDLE = re.compile(r"(pv_native_safe_halt|native_safe_halt|default_idle|acpi_|intel_idle|"
                  r"cpu_startup|mwait|do_idle|cpuidle|tick_nohz_idle)")
PROGRAMS = re.compile(r"netbench|swapper|ksoftirqd")  # others of the machine do not count
KINDS = cost.KINDS


@dataclass(frozen=True)
class Profile:
    """Microseconds of CPU a transaction, in all and by group."""

    all_us: float
    by_group: dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Profile and print a table for each kind."""
    parser = argparse.ArgumentParser(prog="bench.studies.profile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=bounds.rounds, default=3)
    parser.add_argument("--seconds", type=bounds.seconds, default=2.0)
    parser.add_argument("--one-host", action="store_true", help="containers of one host")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args(argv)
    if os.geteuid() != 0 or shutil.which("perf") is None:
        print("bench.studies.profile: needs root, and perf (Debian: linux-perf)", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        netbench = compiled("netbench", folder)
        _, ways = cost.made_ways(stack, one_host=given.one_host)
        for way in ways.values():
            stack.enter_context(cost.serving(way, netbench, PROCESSOR))
        found: dict[str, dict[str, list[Profile]]] = {}
        for number in range(given.rounds):
            for what, kind in KINDS.items():
                for name in turned(list(ways), number):
                    found.setdefault(what, {}).setdefault(name, []).append(
                        record(ways[name], netbench, kind, given.seconds, Path(folder)))
    middle = {what: {name: middle_of(profiles) for name, profiles in by_way.items()}
              for what, by_way in found.items()}
    for what, by_way in middle.items():
        print("\n".join(table(what, by_way)), end="\n\n")
    if given.json:
        given.json.write_text(json.dumps({what: {
            name: {"all": each.all_us, **each.by_group} for name, each in by_way.items()}
            for what, by_way in middle.items()}, indent=1))
    return 0


def record(way: cost.Way, netbench: str, kind: str, seconds: float, folder: Path) -> Profile:
    """Run once under perf."""
    data = folder / "perf.data"
    processor = cost.pinned(PROCESSOR)[-1]
    with subprocess.Popen(["perf", "record", "-q", "-C", processor, "-g", "-e", "cpu-clock",
                           # Not a frequency: perf then changes what a sample stands for.
                           "-c", str(PERIOD_NS), "-o", str(data)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as perf:
        try:
            sample = cost.run(way, netbench, kind, seconds)
        finally:
            perf.terminate()
    script = subprocess.run(["perf", "script", "-i", str(data), "-F", "comm,ip,sym"], check=True,
                            capture_output=True, text=True, errors="replace").stdout
    counts = Counter(filter(None, map(group_of, stacks(script.splitlines()))))
    us = PERIOD_NS / 1e3 / (sample.value * seconds)
    return Profile(sum(counts.values()) * us, {name: n * us for name, n in counts.items()})


def stacks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield each of our samples' functions, the innermost first, from `perf script`'s output."""
    frames: list[str] = []
    inside = False
    for line in lines:
        if not line.strip():
            if inside:
                yield frames
            frames, inside = [], False
        elif line[0].isspace() and inside:
            address, _, symbol = line.strip().partition(" ")
            frames.append(symbol if int(address, 16) >> 63 else "")
        else:
            inside = PROGRAMS.match(line) is not None
    if inside:
        yield frames


def group_of(frames: Sequence[str]) -> str:
    """Return the group of a sample; "": the processor was idle."""
    if not frames or not frames[0]:
        return USER
    if IDLE.match(frames[0]):
        return ""
    for symbol in frames:
        for name, pattern in GROUPS:
            if pattern.match(symbol):
                return name
    return OTHER


def middle_of(profiles: Sequence[Profile]) -> Profile:
    """Return the medians of all rounds."""
    names = {name for each in profiles for name in each.by_group}
    return Profile(median(each.all_us for each in profiles), {
        name: median(each.by_group.get(name, 0.0) for each in profiles) for name in names})


def table(what: str, by_way: Mapping[str, Profile]) -> list[str]:
    """Make a table: a row a group, the largest difference to the host first."""
    ours, host = by_way[cost.SLIM], by_way[cost.HOST]
    names = [name for name, _ in GROUPS] + [USER, OTHER]
    names.sort(key=lambda name: host.by_group.get(name, 0) - ours.by_group.get(name, 0))
    rows = [f"| {what}: CPU, µs each | {' | '.join(by_way)} | slim beyond the host |",
            "|---|" + "---|" * (len(by_way) + 1)]
    for name in names:
        cells = [f"{each.by_group.get(name, 0):.2f}" for each in by_way.values()]
        more = ours.by_group.get(name, 0) - host.by_group.get(name, 0)
        rows.append(f"| {name} | {' | '.join(cells)} | {more:+.2f} |")
    rows.append(f"| all | {' | '.join(f'{each.all_us:.2f}' for each in by_way.values())} | "
                f"{ours.all_us - host.all_us:+.2f} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
