"""Attaches another vendor's sockops program, as sampling and tuning agents do.

It shares nothing with slim but the cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import bcc

from driver.datapath.build.headers import header_tree
from driver.datapath.code.programs import CGROUP_SOCK_OPS, KERNEL_FOLDER, SOCK_OPS
from driver.datapath.loading.bpf import Link, detach

# What the program does with the callback flags when a connection begins or is established.
MANNERS = {
    "adds": "bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG)",
    "sets": "bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_RTT_CB_FLAG)",
    "clears": "bpf_sock_ops_cb_flags_set(ops, 0)",
    "writes options": "if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) bpf_sock_ops_cb_flags_set(ops, "
                      "ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG)",
}
TEXT = """
#include <linux/types.h>
BPF_ARRAY(seen, u64, 16);

int other(struct bpf_sock_ops *ops)
{
    u8 option[5] = {253, 5, 0xab, 0xcd, 1};
    int op = ops->op;
    int syn = ops->skb_tcp_flags & 2;
    u64 *count = op < 16 && !((op == BPF_SOCK_OPS_HDR_OPT_LEN_CB ||
                               op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB) && syn) ? seen.lookup(&op) : 0;
    if (count)
        __sync_fetch_and_add(count, 1);
    if (op == BPF_SOCK_OPS_TCP_CONNECT_CB || op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB ||
        op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
        MANNER;
    } else if (WRITES && op == BPF_SOCK_OPS_HDR_OPT_LEN_CB && syn) {
        bpf_reserve_hdr_opt(ops, sizeof(option), 0);
    } else if (WRITES && op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB && syn) {
        bpf_store_hdr_opt(ops, option, sizeof(option), 0);
    }
    return 1;
}
"""
RTT, HDR_OPT_LEN = 12, 14  # BPF_SOCK_OPS_..._CB


class Other:
    """One such program."""

    def __init__(self, manner: str) -> None:
        text = TEXT.replace("MANNER", MANNERS[manner]).replace(
            "WRITES", str(int(manner == "writes options")))
        with header_tree(KERNEL_FOLDER) as tree, mock.patch.dict(
                os.environ, {"BCC_KERNEL_SOURCE": str(tree)}):
            self._module: Any = bcc.BPF(text=text.encode())
        self._fd = int(self._module.load_func(b"other", SOCK_OPS, None, CGROUP_SOCK_OPS).fd)

    def seen(self, op: int) -> int:
        """Return how often it was called for this event; for header options, SYNs do not count."""
        table = self._module[b"seen"]
        return int(table[table.Key(op)].value)

    @contextmanager
    def attached(self, cgroup: Path, pin: Path) -> Iterator[None]:
        """Attach it after all programs that are there."""
        folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            link = Link.attach(self._fd, folder, CGROUP_SOCK_OPS, pin)
        finally:
            os.close(folder)
        try:
            yield
        finally:
            detach(pin)
            link.close()

    def close(self) -> None:
        """Unload the program."""
        self._module.cleanup()
