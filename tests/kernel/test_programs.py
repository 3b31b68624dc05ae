"""Tests that the kernel accepts every program, and that both sides agree on every struct."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from driver.client_ports import ClientPorts
from driver.datapath.build.cache import compiled_unit
from driver.datapath.build.probe import probe
from driver.datapath.code.programs import ALL_PROGRAMS, KERNEL_FOLDER
from driver.datapath.code.reasons import read_reasons
from driver.datapath.loading.load import Constants, Loaded, load
from tests.kernel.conftest import folder_for_pins
from tests.kernel.test_layout import declared_maps

CONSTANTS = Constants(IPv4Address("192.0.2.1"), 1, 1, 1, 61000, 65535, 1,
                      ClientPorts(32768, 28232), 14789, (32768, 60999))

# Key and value of each map, in bytes, as kernel/include/slim.h declares them.
SIZES = {
    "sandboxes": (8, 8 + 16 * 20), "sandboxes6": (8, 8 + 16 * (2 * 16 + 8)),
    "veths": (4, 8 + 4 * 4 + 16),
    "endpoints": (8, 12),
    "endpoints6": (20, 12),
    "ports": (4, 8 + 4 * 4),
    "directory": (8, 12),
    "directory6": (20, 12),
    "reverse": (8, 8), "addresses6": (8, 16),
    "floods": (8, 8),
    "flows": (8, 3 * 8 + 4 + 2 + 1 + 1 + 8 + 4 + 4),
    "hosts6": (4, 16), "numbers6": (16, 4),
    "dead_hosts": (4, 8),
    "shares": (8, 8), "takeovers": (8, 8), "next_hops": (4, 8 + 4 + 4),
    "services": (8, 8),
    "backends": (16, 4),
    "blocked_hosts": (4, 8), "unanswered": (8, 8), "probes": (8, 4 + 2 + 2),
    "attempts": (4 + 4 + 16, 3 * 8),
    "pending": (8, 8 + 3 * 4 + 2 + 2 + 4 + 4),
    "withheld": (8, 4), "notes": (8, 8 + 8),
    "names_until": (4, 8), "streams": (4, 8),
    "watch": (4, 8), "refused": (8 + 4 + 4, 8 + 4 + 4),
    "watched": (4, 5 * 8 + 2 * 16 + 5 * 4 + 3 * 2 + 2 * 1 + 4),
}


@pytest.fixture(scope="module")
def unit() -> Iterator[tuple[Loaded, Path]]:
    """Programs and maps, which no test may change, and the folder of the maps' pins."""
    with folder_for_pins() as folder:
        made = load(compiled_unit(), CONSTANTS, folder)
        yield made, folder
        made.close()


@pytest.fixture
def loaded(unit: tuple[Loaded, Path]) -> Loaded:
    return unit[0]


def test_every_program_loads_and_nothing_is_left(pins: Path, tmp_path: Path) -> None:
    found = dict(probe(pins, folder=tmp_path))
    assert found == dict.fromkeys(["compile", *(p.name for p in ALL_PROGRAMS)])
    assert not pins.exists()


def test_a_program_that_does_not_compile_is_named(pins: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "kernel"
    shutil.copytree(KERNEL_FOLDER, broken)
    (broken / "lookup.c").write_text("int listener_lookup(struct bpf_sk_lookup *ctx) { oops }")
    (name, error), = probe(pins, broken)
    assert name == "compile"
    assert error


def test_a_program_that_the_verifier_refuses_is_named(pins: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "kernel"
    shutil.copytree(KERNEL_FOLDER, broken)
    (broken / "lookup.c").write_text(
        "int listener_lookup(struct bpf_sk_lookup *ctx) { return 7; }")
    refused = {name: error for name, error in probe(pins, broken) if error}
    assert list(refused) == ["listener_lookup"]


def _fields(struct: Any) -> int:
    """Return the sum of all fields' sizes: that of a struct without padding."""
    if not issubclass(struct, ctypes.Structure):
        return ctypes.sizeof(struct)
    return sum(_fields(kind) if isinstance(kind, type) and issubclass(kind, ctypes.Structure)
               else ctypes.sizeof(kind) for _, kind in struct._fields_)


def test_structs_have_the_declared_sizes_and_no_padding(loaded: Loaded) -> None:
    for name, (key, value) in SIZES.items():
        table = loaded.table(name)
        assert (ctypes.sizeof(table.Key), ctypes.sizeof(table.Leaf)) == (key, value), name
        assert _fields(table.Key) == key, name
        assert _fields(table.Leaf) == value, name


def test_every_map_of_the_unit_is_pinned_and_checked_here(unit: tuple[Loaded, Path]) -> None:
    _, pins = unit
    maps = declared_maps().keys()
    assert {pin.name for pin in pins.iterdir()} == maps
    # These have sockets, sockets' storage, a number for each CPU, or no keys at all.
    assert maps == set(SIZES) | {"listeners", "connections", "connections6", "chosen", "counters",
                                 "events"}


def test_the_counters_hold_every_reason(loaded: Loaded) -> None:
    assert len(read_reasons()) <= len(loaded.table("counters"))
    names = [reason.name for reason in read_reasons()]
    assert len(set(names)) == len(names)
    # The list's parser must overlook none.
    header = (KERNEL_FOLDER / "include" / "reasons.h").read_text()
    assert len(names) == len(re.findall(r"^    R\(", header, re.MULTILINE))


def test_maps_outlive_the_process_that_loaded_them(pins: Path) -> None:
    first = load(compiled_unit(), CONSTANTS, pins)
    table = first.table("directory")
    table[table.Key(1, 2)] = table.Leaf(3, 4)
    first.close()
    second = load(compiled_unit(), CONSTANTS, pins)
    try:
        again = second.table("directory")
        assert again[again.Key(1, 2)].underlay_be == 3
    finally:
        second.close()
