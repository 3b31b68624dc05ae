"""Tests that one compilation serves every start: kept or fresh, any kernel, any constants."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from driver.datapath.build import cache, child, compiling, probe
from driver.datapath.build.cache import compiled_unit
from driver.datapath.build.compiling import compile_unit
from driver.datapath.code.compiled import CONSTANTS, Compiled, relocate
from driver.datapath.code.programs import ALL_PROGRAMS, KERNEL_FOLDER
from driver.datapath.loading.host_numbers import HostNumbers
from driver.datapath.loading.libbpf import lib
from driver.datapath.loading.load import Constants, load
from driver.datapath.loading.objects import open_map
from driver.errors import DatapathError
from tests.kernel.test_programs import CONSTANTS as ANY
from tests.support.world.netns import require_root

SKC_TO_MPTCP_SOCK = 196  # enum bpf_func_id
COMPILE = ("from driver.datapath.build import cache; "
           "cache.compiled_unit(folder=cache.Path({folder!r}))")


@pytest.fixture(scope="module")
def unit() -> Compiled:
    require_root()
    return compile_unit()


def _kept(folder: Path, *command: str) -> Compiled:
    """Have another process compile for the first time; return what it stored."""
    subprocess.run([*command, sys.executable, "-c", COMPILE.format(folder=str(folder))],
                   check=True, cwd=KERNEL_FOLDER.parent)
    found = cache.kept_unit(folder=folder)
    assert found is not None
    return found


def _loadable(unit: Compiled, **values: int) -> dict[str, bytes]:
    return relocate(unit, range(100, 100 + len(unit.maps)), {
        **{name: number << 33 | 7 for number, name in enumerate(CONSTANTS)}, **values})


def test_what_was_kept_is_what_is_compiled(unit: Compiled, tmp_path: Path) -> None:
    kept = _kept(tmp_path / "kept")
    assert kept == unit
    found = _loadable(kept)
    assert found.keys() == {program.name for program in ALL_PROGRAMS}
    assert found == _loadable(unit)
    assert found != _loadable(unit, PORT_FIRST=1)


def test_the_running_kernel_makes_no_difference(unit: Compiled, tmp_path: Path) -> None:
    """So the digest need not have the kernel's version."""
    other = ("setarch", "--uname-2.6")
    release = subprocess.run([*other, "uname", "-r"], check=True, capture_output=True, text=True)
    assert release.stdout.startswith("2.6.")
    assert _kept(tmp_path / "kept", *other) == unit


def test_kept_programs_are_loaded_without_a_compiler(unit: Compiled, pins: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled_unit(folder=tmp_path) == unit
    monkeypatch.setattr(compiling, "header_tree", _no_headers)
    with pytest.raises(DatapathError, match="none here"):
        compile_unit()
    load(compiled_unit(folder=tmp_path), ANY, pins).close()


def _no_headers(*_: object) -> NoReturn:
    raise DatapathError("none here")


def test_a_change_of_the_text_is_compiled(unit: Compiled, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(KERNEL_FOLDER, tmp_path / "kernel"))
    folder = tmp_path / "kept"
    cache.write(folder, cache.unit_key(KERNEL_FOLDER), unit)
    assert compiled_unit(changed, folder=folder) == unit  # the same text in another folder
    (changed / "lookup.c").write_text("int listener_lookup(struct bpf_sk_lookup *c) { return 1; }")
    found = compiled_unit(changed, folder=folder)
    assert [name for name in unit.programs if unit.programs[name] != found.programs[name]] == [
        "listener_lookup"]
    assert len(list(folder.iterdir())) == 2


class _NoMptcp(Constants):
    def values(self, hosts: HostNumbers) -> dict[str, int]:
        return {**super().values(hosts), "MPTCP": 0}


NO_MPTCP = _NoMptcp(**vars(ANY))


def test_a_kernel_without_mptcp_gets_the_same_programs(unit: Compiled, pins: Path) -> None:
    """It lacks the function, and accepts programs that never call it."""
    def call(function: int) -> bytes:
        return struct.pack("=BBhi", 0x85, 0, 0, function)

    strange = {name: code.replace(call(SKC_TO_MPTCP_SOCK), call(9999))
               for name, code in unit.programs.items()}
    assert strange != unit.programs
    other = dataclasses.replace(unit, programs=strange)
    load(other, NO_MPTCP, pins).close()
    if Path("/proc/sys/net/mptcp").exists():
        with pytest.raises(DatapathError, match="refuses program connect4"):
            load(other, ANY, pins)


def test_the_verifiers_reasons_are_on_standard_error(unit: Compiled, pins: Path,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    broken = {**unit.programs, "move_flows": struct.pack("=BBhi", 0x95, 0, 0, 0)}  # R0 is unset
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DatapathError, match=r"^the kernel refuses program move_flows: [\w ]+$"):
        load(dataclasses.replace(unit, programs=broken), ANY, pins)
    assert "R0 !read_ok" in capfd.readouterr().err
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("change", [{"type": 9, "flags": 0}, {"key_size": 12}, {"value_size": 16},
                                    {"max_entries": 100}, {"flags": 0}])
def test_a_pinned_map_of_another_shape_is_refused(change: dict[str, int], unit: Compiled,
                                                  pins: Path) -> None:
    (spec,) = [spec for spec in unit.maps if spec.name == "services"]
    spec = dataclasses.replace(spec, btf_key=0, btf_value=0, **change)
    pins.mkdir()
    os.close(open_map(spec, -1, pins / "services"))
    with pytest.raises(DatapathError, match=r"/services is another map than this slim's: "):
        load(unit, ANY, pins)
    fd = lib.bpf_obj_get(bytes(pins / "services"))  # it is still there
    assert fd >= 0
    os.close(fd)


def test_values_of_each_cpu_are_read(unit: Compiled, pins: Path) -> None:
    loaded = load(unit, ANY, pins)
    try:
        table = loaded.table("counters")
        leaf = table[table.Key(3)]
        assert len(leaf) >= (os.cpu_count() or 1)
        leaf[0], leaf[len(leaf) - 1] = 5, 2**60
        table[table.Key(3)] = leaf
        assert sum(table[table.Key(3)]) == 2**60 + (5 if len(leaf) > 1 else 0)
        assert sum(table[table.Key(2)]) == 0
        assert len(table) == table.max_entries == 64
    finally:
        loaded.close()


def test_a_table_is_a_mapping(unit: Compiled, pins: Path) -> None:
    loaded = load(unit, ANY, pins)
    try:
        table = loaded.table("takeovers")
        keys = [table.Key(number, 2, 3) for number in range(5)]
        assert (len(table), list(table), table.get(keys[0])) == (0, [], None)
        for number, key in enumerate(keys):
            table[key] = table.Leaf(number)
        assert sorted(key.peer_be for key in table) == [0, 1, 2, 3, 4]
        assert sorted(leaf.value for leaf in table.values()) == [0, 1, 2, 3, 4]
        del table[keys[2]]
        with pytest.raises(KeyError):
            table[keys[2]]
        with pytest.raises(KeyError):
            del table[keys[2]]
        for number in range(table.max_entries):
            if number not in (0, 1, 3, 4):
                table[table.Key(number, 2, 3)] = table.Leaf(number)
        with pytest.raises(DatapathError, match=r"^map takeovers: "):
            table[table.Key(9999)] = table.Leaf(1)
        table.clear()
        assert len(table) == 0
        ports = loaded.table("ports")
        with pytest.raises(DatapathError, match=r"^map ports: "):
            del ports[ports.Key(1)]
        assert ctypes.sizeof(ports.Leaf) == 24
    finally:
        loaded.close()


def test_the_doctor_compiles_whatever_is_kept(unit: Compiled, pins: Path, tmp_path: Path) -> None:
    good = dict.fromkeys(["compile", "cache", *(program.name for program in ALL_PROGRAMS)])
    cache.write(tmp_path, cache.unit_key(KERNEL_FOLDER), unit)
    assert dict(probe.probe(pins, folder=tmp_path)) == good
    cache.write(tmp_path, cache.unit_key(KERNEL_FOLDER), dataclasses.replace(
        unit, programs={**unit.programs, "sockops": b""}))
    found = dict(probe.probe(pins, folder=tmp_path))
    assert "remove that folder" in (found.pop("cache") or "")
    assert found == {name: None for name in good if name != "cache"}


def test_the_doctor_says_what_is_loaded_without_a_compiler(
        unit: Compiled, pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "header_tree", _no_headers)
    assert dict(probe.probe(pins, folder=tmp_path)) == {"compile": "none here"}
    cache.write(tmp_path, cache.unit_key(KERNEL_FOLDER), unit)
    found = dict(probe.probe(pins, folder=tmp_path))
    assert found.pop("compile") == (
        f"none here; the driver still starts, with what is in {tmp_path}")
    assert found == dict.fromkeys(program.name for program in ALL_PROGRAMS)


def test_the_compiler_leaves_with_its_process(tmp_path: Path) -> None:
    """A driver that has compiled is as small as one that has not."""
    require_root()
    code = (COMPILE.format(folder=str(tmp_path / "kept"))
            + "; print('libbcc' in open('/proc/self/maps').read(), 'bcc' in sys.modules)")
    said = subprocess.run([sys.executable, "-c", f"import sys; {code}"], check=True,
                          cwd=KERNEL_FOLDER.parent, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"]
    assert cache.kept_unit(folder=tmp_path / "kept") is not None


def test_a_child_that_cannot_compile_says_why(tmp_path: Path) -> None:
    require_root()
    folder = tmp_path / "kernel"
    shutil.copytree(KERNEL_FOLDER, folder)
    (folder / "names.c").write_text("no C")
    with pytest.raises(DatapathError, match="programs do not compile: "):
        child.compile_apart(folder)


@pytest.mark.parametrize(("executable", "why"), [
    ("/nowhere/python3", "No such file"), ("/bin/false", "the compiler ended with 1"),
    ("/bin/true", "cannot be compiled: ")])
def test_a_child_that_does_not_run(executable: str, why: str, monkeypatch: pytest.MonkeyPatch
                                   ) -> None:
    monkeypatch.setattr(child.sys, "executable", executable)
    with pytest.raises(DatapathError, match=why):
        child.compile_apart(KERNEL_FOLDER)
