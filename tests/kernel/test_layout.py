"""Tests the layout of the kernel maps: a change needs a new number, and unchanged maps stay."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.loading.layout import CHANGED_IN, LAYOUT, discard, inherit, pin_folder
from driver.errors import DatapathError
from tests.support.world.machines import mount_bpffs

KNOWN = Path(__file__).with_name("layout.json")
ADVICE = """the maps are not what layout {layout} says.  If a program of the layout before could
misread {names}, or if sizes are others (such a map is refused): raise LAYOUT in
driver/datapath/loading/layout.py and name what has changed in CHANGED_IN.
Then (or if nothing but a comment or a new map is new): python -m tests.kernel.test_layout"""


def layouts() -> dict[str, str]:
    """Return map -> digest of its declaration and of all structs in it."""
    header = (KERNEL_FOLDER / "include/slim.h").read_text()
    structs = dict(re.findall(r"struct (\w+) \{(.*?)\} ?;", _plain(header)))
    constants = dict(re.findall(r"#define (SLIM_\w+) (\S+)", header))

    def spelled_out(declaration: str) -> str:
        for name, value in constants.items():
            declaration = re.sub(rf"\b{name}\b", value, declaration)
        return declaration + "".join(
            spelled_out(structs[name]) for name in re.findall(r"struct (\w+)", declaration))

    return {name: hashlib.sha256(spelled_out(declaration).encode()).hexdigest()[:16]
            for name, declaration in declared_maps().items()}


def declared_maps() -> dict[str, str]:
    """Return name -> declaration."""
    text = _plain((KERNEL_FOLDER / "maps.c").read_text())
    tables = re.findall(r"BPF_(?:F_)?TABLE\((.*?)\) ?;", text)
    rings = re.findall(r"BPF_RINGBUF_OUTPUT\((.*?)\) ?;", text)
    return ({declaration.split(",")[3].strip(): declaration for declaration in tables}
            | {declaration.split(",")[0].strip(): f"{declaration} struct event"
               for declaration in rings})


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def test_no_map_changes_under_its_number() -> None:
    known = json.loads(KNOWN.read_text())
    now = layouts()
    names = sorted(name for name in known["maps"] if known["maps"][name] != now.get(name))
    assert (known["layout"], names, now.keys() - known["maps"].keys()) == (
        LAYOUT, [], set()), ADVICE.format(layout=known["layout"], names=names)
    assert set(CHANGED_IN) <= set(range(2, LAYOUT + 1))
    assert set().union(*CHANGED_IN.values()) <= now.keys()


@pytest.fixture
def bpffs() -> Iterator[Path]:
    folder = mount_bpffs() / f"layout-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        for parent, folders, files in os.walk(folder, topdown=False):
            for name in files:
                Path(parent, name).unlink()
            for name in folders:
                Path(parent, name).rmdir()
        folder.rmdir()


def _pins(bpffs: Path, layout: int, *names: str) -> None:
    from bcc import lib
    folder = pin_folder(bpffs, layout)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        fd = lib.bcc_create_map(1, name.encode(), 4, 4, 1, 0)  # BPF_MAP_TYPE_HASH
        assert fd >= 0
        assert lib.bpf_obj_pin(fd, str(folder / name).encode()) == 0
        os.close(fd)


def test_what_has_not_changed_is_the_same_map(bpffs: Path) -> None:
    _pins(bpffs, 3, "flows", "ports", "directory")
    found = inherit(bpffs, 5, {2: frozenset({"ports"}), 4: frozenset({"flows"}),
                               5: frozenset({"directory"}), 6: frozenset({"ports"})})
    assert found is not None
    assert (found.folder.name, found.changed) == ("v3", {"flows", "directory"})
    assert [pin.name for pin in pin_folder(bpffs, 5).iterdir()] == ["ports"]
    assert _same(bpffs, "ports", 3, 5)
    discard(found)
    assert not pin_folder(bpffs, 3).exists()
    assert (pin_folder(bpffs, 5) / "ports").exists()


def test_an_upgrade_that_was_cut_short_is_passed_over(bpffs: Path) -> None:
    """Its maps are half filled, and the programs of the previous layout still run."""
    changed = {2: frozenset({"flows"}), 3: frozenset({"directory"})}
    _pins(bpffs, 1, "flows", "ports", "directory", "connect4")
    assert inherit(bpffs, 2, changed) is not None
    _pins(bpffs, 2, "flows")  # there the driver was killed
    found = inherit(bpffs, 3, changed)
    assert found is not None
    assert (found.folder.name, found.changed) == ("v1", {"flows", "directory"})
    assert {pin.name for pin in pin_folder(bpffs, 3).iterdir()} == {"ports", "connect4"}
    assert _same(bpffs, "ports", 1, 3)
    discard(found)
    assert [folder.name for folder in (bpffs / "slim").iterdir()] == ["v3"]


def _same(bpffs: Path, name: str, *layouts: int) -> bool:
    return len({(pin_folder(bpffs, layout) / name).stat().st_ino for layout in layouts}) == 1


def test_nothing_older(bpffs: Path) -> None:
    assert inherit(bpffs, 2) is None
    _pins(bpffs, 2, "flows")
    assert inherit(bpffs, 2) is None


def test_a_newer_layout_is_left_alone(bpffs: Path) -> None:
    _pins(bpffs, 3, "flows")
    with pytest.raises(DatapathError, match=r"a newer slim has run on this host: .*/v3"):
        inherit(bpffs, 2)
    assert not pin_folder(bpffs, 2).exists()


if __name__ == "__main__":
    KNOWN.write_text(json.dumps({"layout": LAYOUT, "maps": layouts()}, indent=1) + "\n")
