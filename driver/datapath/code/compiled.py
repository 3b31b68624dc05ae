"""Holds the compiler's output as a value that is the same on every host of a kind.

Until relocate() fills in descriptors and values, a map is named by its index in `maps`, and a
constant that differs from host to host by a number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from driver.errors import DatapathError

# The constants of kernel/include/constants.h; the C text knows each by its index here.
CONSTANTS = ("UNDERLAY_BE", "IPV6_UNDERLAY", "UNDERLAY6_HIGH", "UNDERLAY6_LOW", "UNDERLAY_IFINDEX",
             "VXLAN_IFINDEX", "MARK", "HOST_NETNS", "PORT_FIRST", "PORT_LAST", "MPTCP",
             "CLIENT_FIRST", "CLIENT_COUNT", "CLIENT_GAP_FIRST", "CLIENT_GAP", "VXLAN_PORT_BE",
             "VXLAN_SOURCE_FIRST", "VXLAN_SOURCE_COUNT", "ASSIGNS_GROUPS")
_TAG = 0x511dc057  # upper half of a constant's placeholder; occurs nowhere else

# struct bpf_insn: opcode, registers (source in the upper four bits), offset, immediate value.
_INSTRUCTION = struct.Struct("=BBhi")
_WIDE = 0x18  # BPF_LD | BPF_IMM | BPF_DW: takes two slots, the second has the upper half
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD, as source register: the value is a map's descriptor
_CALL, _HELPER = 0x85, 0  # BPF_JMP | BPF_CALL, and the source register of a helper call


RING_BUFFER: Final = 27  # enum bpf_map_type: such a map has neither keys nor values


@dataclass(frozen=True)
class MapSpec:
    """A map as the C text declares it; sizes in bytes."""

    name: str
    type: int  # enum bpf_map_type
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_key: int  # types in Compiled.btf; 0: none
    btf_value: int
    key: Any  # C types, as struct_types.py reads them; None: it has none
    value: Any


@dataclass(frozen=True)
class Compiled:
    """Programs by name, as instructions of 8 bytes; the maps they use; the maps' types (BTF)."""

    programs: Mapping[str, bytes]
    maps: tuple[MapSpec, ...]
    btf: bytes


def constant_flags() -> list[str]:
    """Return the compiler arguments that define the constants' numbers."""
    return [f"-DCONSTANT_TAG={_TAG:#x}ULL",
            *(f"-DCONSTANT_{name}={number}" for number, name in enumerate(CONSTANTS))]


def unrelocated(code: bytes, places: Mapping[int, int]) -> bytes:
    """Return a program with map descriptors replaced by indexes.  places: descriptor -> index.

    Error: DatapathError, if it contains something that relocate() does not understand.
    """
    parts = list(_instructions(code))
    for index, (opcode, registers, _, value) in enumerate(parts):
        source = registers >> 4
        if opcode == _CALL and source != _HELPER:
            raise DatapathError("a call of another function: all have to be __always_inline")
        if opcode != _WIDE:
            continue
        if source == _MAP_FD and value in places:
            parts[index] = opcode, registers, 0, places[value]
        elif source:
            raise DatapathError(f"a reference of kind {source} to {value} is not understood")
    return b"".join(_INSTRUCTION.pack(*part) for part in parts)


def relocate(compiled: Compiled, descriptors: Sequence[int], values: Mapping[str, int]
             ) -> dict[str, bytes]:
    """Return the programs in the form that the kernel loads.

    descriptors: the maps', in their order; values: all constants', 64 bit, unsigned.
    Error: DatapathError, if they do not match the programs.
    """
    numbered = [values[name] for name in CONSTANTS]
    used: set[int] = set()
    programs = {}
    for name, code in compiled.programs.items():
        try:
            programs[name] = _relocated(code, descriptors, numbered, used)
        except (DatapathError, struct.error) as error:
            raise DatapathError(f"program {name} is unusable: {error}") from error
    unused = [name for number, name in enumerate(CONSTANTS) if number not in used]
    if unused:
        raise DatapathError(f"no program has a place for the constant {', '.join(unused)}")
    return programs


def _relocated(code: bytes, descriptors: Sequence[int], values: Sequence[int], used: set[int]
               ) -> bytes:
    before = list(_instructions(code))
    parts = list(before)
    for index, (opcode, registers, _, low) in enumerate(before):
        if opcode == _WIDE and registers >> 4 == _MAP_FD:
            parts[index] = opcode, registers, 0, _at(descriptors, low, "map")
        elif opcode == _WIDE and before[index + 1:index + 2] == [(0, 0, 0, _TAG)]:
            value = _at(values, low, "constant")
            used.add(low)
            parts[index] = opcode, registers, 0, _signed(value)
            parts[index + 1] = 0, 0, 0, _signed(value >> 32)
        elif opcode and low == _TAG:
            raise DatapathError("the compiler has taken a constant's number apart")
    return b"".join(_INSTRUCTION.pack(*part) for part in parts)


def _instructions(code: bytes) -> Iterator[tuple[int, int, int, int]]:
    return _INSTRUCTION.iter_unpack(code)


def _at(numbered: Sequence[int], number: int, what: str) -> int:
    if not 0 <= number < len(numbered):
        raise DatapathError(f"there is no {what} {number}")
    return numbered[number]


def _signed(value: int) -> int:
    """Return the lower 32 bits as the instruction's signed number."""
    return ((value & 0xffffffff) ^ 0x80000000) - 0x80000000
