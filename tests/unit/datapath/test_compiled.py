"""Tests filling descriptors and values into compiled programs, and changing nothing else."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping

import pytest

from driver.datapath.code.compiled import (
    CONSTANTS,
    Compiled,
    constant_flags,
    relocate,
    unrelocated,
)
from driver.datapath.loading.struct_types import ctypes_class
from driver.errors import DatapathError

TAG = next(int(flag.removeprefix("-DCONSTANT_TAG=").removesuffix("ULL"), 16)
           for flag in constant_flags() if "TAG" in flag)
VALUES = {name: 1000 + number for number, name in enumerate(CONSTANTS)}
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def wide(low: int, high: int = 0, source: int = 0) -> bytes:
    """Load a 64-bit number into register 3."""
    return struct.pack("=BBhiBBhi", 0x18, source << 4 | 3, 0, low, 0, 0, 0, high)


ALL = b"".join(wide(number, TAG) for number in range(len(CONSTANTS)))


def relocated(code: bytes, descriptors: tuple[int, ...] = (),
              values: Mapping[str, int] = VALUES) -> bytes:
    programs = {"one": code + EXIT, "other": ALL + EXIT}
    return relocate(Compiled(programs, (), b""), descriptors, values)["one"]


def test_maps_go_from_descriptors_to_places_and_back() -> None:
    code = wide(11, source=1) + wide(0x1234, 0x5678) + wide(7, source=1) + EXIT
    kept = unrelocated(code, {7: 0, 11: 1})
    assert kept == wide(1, source=1) + wide(0x1234, 0x5678) + wide(0, source=1) + EXIT
    assert relocated(kept, (7, 11)) == code + EXIT
    assert relocated(kept, (21, 22)) == (
        wide(22, source=1) + wide(0x1234, 0x5678) + wide(21, source=1) + EXIT + EXIT)


@pytest.mark.parametrize(("value", "low", "high"), [
    (0, 0, 0), (1, 1, 0), (2**31, -2**31, 0), (2**32 - 1, -1, 0), (2**32, 0, 1),
    (2**64 - 1, -1, -1), (TAG << 32 | 3, 3, TAG), (TAG, TAG, 0), (TAG << 32 | 0x18, 0x18, TAG)])
def test_a_value_of_64_bits_takes_the_place_of_its_number(value: int, low: int, high: int) -> None:
    number = CONSTANTS.index("HOST_NETNS")
    assert relocated(wide(number, TAG), values={**VALUES, "HOST_NETNS": value}) == (
        wide(low, high) + EXIT)


def test_every_constant_has_its_own_value() -> None:
    assert relocated(ALL) == b"".join(wide(value) for value in VALUES.values()) + EXIT


@pytest.mark.parametrize(("code", "why"), [
    (wide(len(CONSTANTS), TAG), f"no constant {len(CONSTANTS)}"),
    (wide(-1, TAG), "no constant -1"),
    (wide(1, source=1), "no map 1"),
    (wide(-1, source=1), "no map -1"),
    (struct.pack("=BBhi", 0xb7, 3, 0, TAG), "taken a constant's number apart"),
    (struct.pack("=BBhi", 0x18, 3, 0, TAG), "taken a constant's number apart"),
    (b"\0" * 7, "multiple of 8"),
])
def test_what_does_not_fit_together_is_refused(code: bytes, why: str) -> None:
    with pytest.raises(DatapathError, match=f"program one is unusable: .*{why}"):
        relocated(code, (5,))


def test_a_constant_that_no_program_uses_is_refused() -> None:
    code = ALL.replace(wide(CONSTANTS.index("MARK"), TAG), b"")
    with pytest.raises(DatapathError, match=r"no program has a place for the constant MARK$"):
        relocate(Compiled({"one": code}, (), b""), (), VALUES)


@pytest.mark.parametrize(("code", "why"), [
    (wide(8, source=1), "kind 1 to 8"),  # a map that the unit lacks
    (wide(7, source=2), "kind 2 to 7"),  # a place in a map: a global variable
    (struct.pack("=BBhi", 0x85, 1 << 4, 0, 3), "__always_inline"),
])
def test_what_is_not_understood_is_refused_before_it_is_kept(code: bytes, why: str) -> None:
    with pytest.raises(DatapathError, match=why):
        unrelocated(code + EXIT, {7: 0})


def test_c_types_become_ctypes() -> None:
    key = ["flow_key", [["peer_be", "unsigned int"], ["port", "unsigned short"]], "struct_packed"]
    made = ctypes_class(["flow", [["name", key], ["mac", "unsigned char", [6]], ["keys", key, [2]],
                                  ["at_ns", "long long"]], "struct_packed"], 6 + 6 + 12 + 8)
    flow = made()
    flow.name.port, flow.mac[5], flow.keys[1].peer_be, flow.at_ns = 0x1234, 7, 0x89abcdef, -1
    assert bytes(flow) == (b"\0\0\0\0\x34\x12" + b"\0\0\0\0\0\x07" + b"\0" * 6
                           + b"\xef\xcd\xab\x89\0\0" + b"\xff" * 8)
    assert ctypes_class("unsigned int", 4) is ctypes.c_uint


@pytest.mark.parametrize("description", [
    "float", None, 7, [], ["s", [["a", "int"]], "union"], ["s", [["a", "int", 3]], "struct"],
    ["s", [["a"]], "struct"], ["s", [["a", "int", [2, 3]]], "struct"], {"a": "int"}])
def test_c_types_that_are_not_understood_are_refused(description: object) -> None:
    with pytest.raises(DatapathError, match="not understood"):
        ctypes_class(description, 4)


def test_a_c_type_of_another_size_is_refused() -> None:
    with pytest.raises(DatapathError, match="has 4 bytes, not 8"):
        ctypes_class("unsigned int", 8)
