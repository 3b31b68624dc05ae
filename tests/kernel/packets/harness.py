"""Runs a program on one packet in a namespace of its own (BPF_PROG_TEST_RUN), and compares.

The kernel takes mark, interface and control bytes for such a packet, but no VLAN tag, no tunnel key
and (newer ones) no IP header that is cut short.  A packet that needs these passes a small program
first, which makes them by the kernel's own helpers, and goes on to the tested one by a tail call.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address
from typing import Any

from driver.client_ports import ClientPorts
from driver.datapath.build.cache import compiled_unit
from driver.datapath.code.programs import FROM_OVERLAY, SCHED_CLS, Program
from driver.datapath.code.reasons import read_reasons
from driver.datapath.loading.libbpf import checked, lib
from driver.datapath.loading.load import Constants, Loaded, load
from driver.datapath.loading.objects import load_program
from tests.kernel.conftest import folder_for_pins
from tests.kernel.packets import world
from tests.kernel.packets.case import Case, Entry, Verdict, matches, put, struct_of
from tests.support.world import netns
from tests.support.world.netns import Netns

VXLAN_PORT = 14789
# Tables that programs under test write: compared afterwards, and not (too large; sockets).
_WRITTEN = ("flows", "next_hops", "pending", "withheld", "notes", "probes", "attempts")
_WRITTEN_TOO = ("ports", "listeners")
_BUFFER = 4096
_SKB_BYTES, _MARK, _PRIORITY, _IFINDEX, _CB = 192, 8, 32, 40, 48  # struct __sk_buff
_PROG_ARRAY = 3

# Whose other ends take what is sent, and say nothing.
_PAIRS = {"wire": world.WIRE, "mine": world.MY_VETH, "near": world.NEAR_VETH,
          "alien": world.ALIEN_VETH, "stray": world.STRAY_VETH}
_REST = f"""
addr add {world.HOST}/24 dev wire
link set wire addrgenmode none arp off
link add vxlan index {world.VXLAN} type vxlan external dstport {VXLAN_PORT}
link set vxlan up
route add 198.51.100.0/24 via {world.GATEWAY}
route add 203.0.113.0/24 via inet6 fe80::1 dev wire
"""


class _Options(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1.1."""

    _fields_ = (("sz", ctypes.c_size_t), ("data_in", ctypes.c_char_p),
                ("data_out", ctypes.c_void_p), ("data_size_in", ctypes.c_uint32),
                ("data_size_out", ctypes.c_uint32), ("ctx_in", ctypes.c_char_p),
                ("ctx_out", ctypes.c_void_p), ("ctx_size_in", ctypes.c_uint32),
                ("ctx_size_out", ctypes.c_uint32), ("retval", ctypes.c_uint32),
                ("repeat", ctypes.c_int), ("duration", ctypes.c_uint32),
                ("flags", ctypes.c_uint32), ("cpu", ctypes.c_uint32),
                ("batch_size", ctypes.c_uint32))


def _first_program(tail_map: int) -> bytes:
    """Return a program: what it makes of a packet is in the packet's control bytes.

    cb[0]: whether it sets a tunnel key, of VNI cb[1] and outer source cb[2]; cb[3]: a tag, if not
    0; cb[4]: which program goes on.  priority: to how many bytes the packet is cut, if not 0.
    """
    def code(opcode: int, to: int, of: int = 0, offset: int = 0, value: int = 0) -> bytes:
        return struct.pack("=BBhi", opcode, of << 4 | to, offset, value)

    stack, skb = 10, 6
    load_, store, zero, copy, set_, add = 0x61, 0x63, 0x7a, 0xbf, 0xb7, 0x07
    unless, call, leave = 0x15, 0x85, 0x95
    failed = 0x55  # jump if not
    parts = [code(copy, skb, 1), *(code(zero, stack, 0, at) for at in range(-48, 0, 8)),
             code(load_, 2, skb, _CB), code(unless, 2, 0, 11),
             code(load_, 2, skb, _CB + 4), code(store, stack, 2, -48),  # tunnel_id
             code(load_, 2, skb, _CB + 8), code(store, stack, 2, -48 + 28),  # local_ipv4
             code(copy, 1, skb), code(copy, 2, stack), code(add, 2, 0, 0, -48),
             code(set_, 3, 0, 0, 44), code(set_, 4), code(call, 0, 0, 0, 21),  # set_tunnel_key
             code(failed, 0, 0, 17),
             code(load_, 3, skb, _CB + 12), code(unless, 3, 0, 4),
             code(copy, 1, skb), code(set_, 2, 0, 0, socket.htons(0x8100)),
             code(call, 0, 0, 0, 18), code(failed, 0, 0, 11),  # skb_vlan_push
             code(load_, 2, skb, _PRIORITY), code(unless, 2, 0, 4),
             code(copy, 1, skb), code(set_, 3), code(call, 0, 0, 0, 38),  # skb_change_tail
             code(failed, 0, 0, 5),
             code(copy, 1, skb), code(0x18, 2, 1, 0, tail_map) + code(0, 0),
             code(load_, 3, skb, _CB + 16), code(call, 0, 0, 0, 12),  # tail_call
             code(set_, 0, 0, 0, 99), code(leave, 0)]
    return b"".join(parts)


class Taps:
    """Keeps all frames that the namespace's devices send, in order."""

    def __init__(self, stack: ExitStack) -> None:
        self._raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                      socket.htons(3)))
        self._raw.setblocking(False)

    def copies(self) -> list[tuple[str, bytes]]:
        """Return (device, frame); of VXLAN packets ("host, VNI", inner frame)."""
        found: list[tuple[str, bytes]] = []
        while True:
            try:
                data, (device, _, _, *_) = self._raw.recvfrom(_BUFFER)
            except BlockingIOError:
                return found
            if device == "wire" and data[12:14] == b"\x86\xdd":
                continue  # the kernel's own: the device has IPv6 for the sake of a route
            if device == "wire":
                assert data[36:38] == VXLAN_PORT.to_bytes(2, "big"), data.hex()
                device = f"{IPv4Address(data[30:34])}, {int.from_bytes(data[46:49], 'big')}"
                data = data[50:]
            if device != "vxlan":  # what it sends comes out of the wire
                found.append((device, data))


class Kernel:
    """The programs, loaded once; each case finds the maps as world.py has them."""

    def __init__(self, stack: ExitStack) -> None:
        self.netns = stack.enter_context(netns.made("packets"))
        self._make_devices(stack.enter_context(netns.made("silence")))
        self.loaded: Loaded = load(compiled_unit(), Constants(
            IPv4Address(world.HOST), world.WIRE, world.VXLAN, 1, world.PORT_FIRST,
            world.PORT_LAST, 1, ClientPorts(32768, 28232), VXLAN_PORT, (32768, 60999)),
            stack.enter_context(folder_for_pins()))
        stack.callback(self.loaded.close)
        self._names = [reason.name for reason in read_reasons()]
        self._stale = {entry.table for entry in world.WORLD}  # have others than world.py's
        self._taps = self.netns.call(lambda: Taps(stack))
        self._load_first(stack)

    def _make_devices(self, silence: Netns) -> None:
        for namespace in (silence, self.netns):
            namespace.sysctl("ipv6.conf.default.disable_ipv6", 1)
        self.netns.sysctl("ipv4.ip_forward", 1)  # bpf_fib_lookup asks for it
        self.netns.ips(*(f"link add {name} index {number} type veth peer name {name} netns "
                         f"{silence.name}" for name, number in _PAIRS.items()))
        self.netns.ip(f"link set wire address {world.WIRE_MAC.hex(':')}")
        self.netns.sysctl("ipv6.conf.wire.disable_ipv6", 0)
        for namespace in (silence, self.netns):  # in this order: the carrier is there at once
            namespace.ips(*(f"link set {name} up" for name in _PAIRS))
        self.netns.ips(*_REST.strip().splitlines())

    def _load_first(self, stack: ExitStack) -> None:
        self._places = {name: at for at, name in enumerate(self.loaded.programs)}
        tails = checked(lib.bpf_map_create(_PROG_ARRAY, b"tails", 4, 4, len(self._places), None),
                        "make a map of programs")
        stack.callback(os.close, tails)
        for name in ("from_container", "from_container_direct", "from_wire", FROM_OVERLAY.name):
            place, fd = ctypes.c_uint32(self._places[name]), ctypes.c_uint32(
                self.loaded.programs[name])
            checked(lib.bpf_map_update_elem(tails, ctypes.byref(place), ctypes.byref(fd),
                                            ctypes.c_uint64(0)), f"enter {name}")
        self._first = load_program(Program("first", SCHED_CLS), _first_program(tails))
        stack.callback(os.close, self._first)

    def counters(self) -> dict[str, int]:
        """Return all that are not 0."""
        table = self.loaded.table("counters")
        values = {name: sum(table[table.Key(at)]) for at, name in enumerate(self._names)}
        return {name: value for name, value in values.items() if value}

    def run(self, case: Case) -> None:
        """Run a case, and compare all that it says, and all that it does not."""
        given = {entry.table for entry in case.given}
        before = {name: self._fresh(name, case.given)
                  for name in {*_WRITTEN, *_WRITTEN_TOO} | self._stale | given}
        self._stale = given
        counted = self.counters()
        self._taps.copies()
        verdict, packet, mark = self.netns.call(lambda: self._test_run(case))
        grown = {name: value - counted.get(name, 0) for name, value in self.counters().items()
                 if value != counted.get(name, 0)}
        assert (Verdict(verdict), grown) == (
            case.verdict, dict.fromkeys(case.counts.split(), 1))
        unchanged = case.packet[:case.cut or None]
        assert packet.hex(" ") == (unchanged if case.after is None else case.after).hex(" ")
        assert mark == case.marked
        assert self._taps.copies() == list(case.copies)
        for name in _WRITTEN:
            self._compare(name, before[name], [each for each in case.then if each.table == name])

    def _fresh(self, name: str, given: Any) -> dict[bytes, bytes]:
        """Leave the world's and the case's entries in a table, and nothing else."""
        table = self.loaded.table(name)
        entries = [entry for entry in (*world.WORLD, *given) if entry.table == name]
        if name == "ports":  # an array
            for number in (*range(world.PORT_FIRST, world.PORT_FIRST + 100), world.PORT_LAST):
                table[table.Key(number)] = table.Leaf()
        else:
            table.clear()
        return dict(put(table, entry) for entry in entries)

    def _compare(self, name: str, before: dict[bytes, bytes], then: list[Entry]) -> None:
        table = self.loaded.table(name)
        now = {bytes(key): bytes(table[key]) for key in table}
        for entry in then:
            found = bytes(struct_of(table.Key, entry.key))
            assert matches(table, entry, now.pop(found, None)), entry
            before.pop(found, None)
        assert now == before, name

    def _test_run(self, case: Case) -> tuple[int, bytes, int]:
        fd, context = self.loaded.programs[case.program], bytearray(_SKB_BYTES)
        struct.pack_into("=I", context, _MARK, case.mark)
        struct.pack_into("=I", context, _IFINDEX, case.came_by)
        struct.pack_into("=I", context, _PRIORITY, case.cut)
        if case.tunnel or case.vlan or case.cut:
            fd = self._first
            vni, outer = case.tunnel or (0, "0.0.0.0")
            struct.pack_into("=5I", context, _CB, case.tunnel is not None, vni,
                             int(ip_address(outer)), case.vlan, self._places[case.program])
        packet = ctypes.create_string_buffer(_BUFFER)
        after = ctypes.create_string_buffer(_SKB_BYTES)
        options = _Options(
            sz=ctypes.sizeof(_Options), data_in=case.packet, data_size_in=len(case.packet),
            data_out=ctypes.addressof(packet), data_size_out=_BUFFER, ctx_in=bytes(context),
            ctx_size_in=_SKB_BYTES, ctx_out=ctypes.addressof(after), ctx_size_out=_SKB_BYTES)
        checked(lib.bpf_prog_test_run_opts(fd, ctypes.byref(options)), f"run {case.program}")
        mark, = struct.unpack_from("=I", after, _MARK)
        return options.retval, packet.raw[:options.data_size_out], mark
