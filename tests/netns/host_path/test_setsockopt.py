"""Tests the hook at setsockopt(): it sees all callers, and changes no option."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcc
import pytest

from driver.datapath.build.headers import header_tree
from driver.datapath.code.programs import KERNEL_FOLDER, SETSOCKOPT, SOCK_OPT
from driver.datapath.loading.bpf import Link
from tests.netns.kept_off.noted import KEYS, RULES, noted, withheld
from tests.netns.talk import run
from tests.support.world.machines import Container, Machine

# Others' programs; a nested cgroup's runs before ours.
_OTHERS = b"""
#include <linux/bpf.h>
int puts_another(struct bpf_sockopt *ctx)
{
    u8 *value = ctx->optval, *end = ctx->optval_end;
    if (ctx->level == 6 && ctx->optname == 4 && value + 4 <= end) { /* TCP_KEEPIDLE */
        *(u32 *)value = 77;
        ctx->optlen = 4;
    }
    return 1;
}
int takes_it(struct bpf_sockopt *ctx)
{
    if (ctx->level == 6 && ctx->optname == 4)
        ctx->optlen = -1; /* done: the kernel need not see it */
    return 1;
}
int refuses(struct bpf_sockopt *ctx)
{
    return ctx->optname != 4;
}
"""


@pytest.fixture
def container(machines: list[Machine]) -> Container:
    return machines[0].container("10.32.0.2/16")


@contextmanager
def nested(container: Container, program: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cgroup below the machine's, with its own setsockopt program."""
    below = container.machine.cgroup / "below"
    pin = container.machine.pins / "other"
    with header_tree(KERNEL_FOLDER) as tree:
        monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tree))
        module = bcc.BPF(text=_OTHERS)
    below.mkdir()
    try:
        function = module.load_func(program.encode(), SOCK_OPT, None, SETSOCKOPT)
        descriptor = os.open(below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            link = Link.attach(function.fd, descriptor, SETSOCKOPT, pin)
        finally:
            os.close(descriptor)
        try:
            yield below
        finally:
            link.detach()
    finally:
        module.cleanup()
        below.rmdir()


@pytest.mark.parametrize(("program", "seen"), [
    ("puts_another", "none 77"), ("takes_it", "none 7200"), ("refuses", "EPERM 7200")])
def test_a_nested_cgroups_program_has_its_way(
        container: Container, monkeypatch: pytest.MonkeyPatch, program: str, seen: str) -> None:
    with nested(container, program, monkeypatch) as below:
        assert run(container, """
            def move(group):
                with open(group + "/cgroup.procs", "w") as procs:
                    procs.write(str(os.getpid()))
            move(sys.argv[1])
            s = socket.socket()
            print(error_of(lambda: s.setsockopt(6, 4, 55)), s.getsockopt(6, 4))
            set_key(s, "10.32.0.3", b"secret")
            move(sys.argv[2])  # a group with a process that is not reaped yet cannot go
        """, below, below.parent) == seen
        assert noted(container) == KEYS


def test_values_of_every_length(container: Container) -> None:
    """No value, one of no bytes, and one longer than programs get to see."""
    assert run(container, """
        import ctypes
        s, u = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, None, 0)
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        s.setsockopt(socket.IPPROTO_TCP, 13, b"reno".ljust(9000, b"\\0"))  # TCP_CONGESTION
        # Source filter of 1100 groups: 8,804 bytes.
        groups = b"".join(struct.pack("=4s", bytes([10, 9, n >> 8, n & 255])) for n in range(1100))
        with open("/proc/sys/net/ipv4/igmp_max_msf", "w") as limit:
            limit.write("2000")
        own = socket.inet_aton(sys.argv[1])
        u.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.1.1") + own)
        u.setsockopt(0, 41, socket.inet_aton("239.1.1.1") + own + struct.pack("=II", 1, 1100)
                     + groups)
        print(s.getsockopt(socket.IPPROTO_TCP, 13, 16).rstrip(b"\\0").decode(),
              error_of(lambda: s.setsockopt(socket.IPPROTO_TCP, 9999, 1)),
              error_of(lambda: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"")))
    """, container.address) == "reno ENOPROTOOPT EINVAL"
    assert withheld(container) is None


@pytest.mark.parametrize("command", ["iptables-legacy", "ip6tables-legacy"])
def test_a_large_table_of_iptables_legacy(container: Container, command: str) -> None:
    """Two thousand rules are 400 kB in one call; the driver must look at them."""
    source = "10.9" if command == "iptables-legacy" else "fd00:"
    rules = "".join(f"-A INPUT -s {source}{'.' if '.' in source else ':'}"
                    + (f"{n >> 8}.{n & 255}" if "." in source else f"{n:x}") + " -j DROP\n"
                    for n in range(2000))
    done = subprocess.run(container.command(f"{command}-restore"), text=True, capture_output=True,
                          input=f"*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n", check=False)
    assert not done.returncode, done.stderr
    assert container.run(command, "-S", "INPUT").stdout.count("DROP") == 2000
    assert (noted(container), withheld(container)) == (RULES, "own_rules")


def test_it_is_seen_by_way_of_io_uring(container: Container) -> None:
    """IORING_OP_URING_CMD (Linux 6.7) sets options without the system call setsockopt()."""
    said = run(container, """
        import ctypes, errno, mmap
        libc = ctypes.CDLL(None, use_errno=True)
        params = bytearray(120)
        ring = libc.syscall(425, 4, (ctypes.c_char * 120).from_buffer(params))
        if ring < 0:
            print(errno.errorcode[ctypes.get_errno()])
            sys.exit()
        # struct io_sqring_offsets at 40: head, tail, ring_mask, ring_entries, flags, dropped, array
        _, tail, _, _, _, _, array = struct.unpack_from("=7I", params, 40)
        cq = struct.unpack_from("=7I", params, 80)  # head, tail, ring_mask, .., overflow, cqes
        area = mmap.mmap(ring, 4096, offset=0)
        entries = mmap.mmap(ring, 4 * 64, offset=0x10000000)
        s = socket.socket()
        key = struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton("10.32.0.3"))
        key = ctypes.create_string_buffer(key + struct.pack("=BBHi80s", 0, 0, 6, 0, b"secret"), 216)
        # opcode 46, fd, cmd_op 3 (setsockopt), level and optname, optlen, optval
        struct.pack_into("=BBHiIIIIIIQHHIQQ", entries, 0, 46, 0, 0, s.fileno(), 3, 0, 6, MD5SIG,
                         0, 0, 0, 0, 0, len(key), ctypes.addressof(key), 0)
        struct.pack_into("=I", area, array, 0)
        struct.pack_into("=I", area, tail, 1)
        libc.syscall(426, ring, 1, 1, 1, 0, 0)
        _, result, _ = struct.unpack_from("=QiI", area, cq[5])
        print(result)
    """)
    if said in ("ENOSYS", "EPERM", "-95"):
        pytest.skip(f"no io_uring, or none that sets socket options: {said}")
    assert said == "0"
    assert (noted(container), withheld(container)) == (KEYS, "keys")


