"""Tests whether this host's kernel accepts the programs: for the doctor, which attaches none.

It compiles anew and does not trust the cache, since something that nobody thought of may have
changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from driver.datapath.build.cache import FOLDER, kept_unit, shipped_unit
from driver.datapath.build.compiling import compile_unit
from driver.datapath.code.programs import KERNEL_FOLDER
from driver.datapath.loading.load import try_programs
from driver.errors import DatapathError


def probe(pins: Path, kernel_folder: Path = KERNEL_FOLDER, folder: Path = FOLDER
          ) -> Iterator[tuple[str, str | None]]:
    """Compile the programs, unless they came compiled, and load each into the kernel.

    Yields (name, error or None).

    pins: a temporary folder.  folder: the cache, which is only read.
    Nothing is left behind.  Error: DatapathError.
    """
    shipped = shipped_unit(kernel_folder)
    if shipped is not None:
        yield from try_programs(shipped, pins)
        return
    kept = kept_unit(kernel_folder, folder)
    try:
        unit = compile_unit(kernel_folder)
    except DatapathError as error:
        if kept is None:
            yield "compile", str(error)
            return
        yield "compile", f"{error}; the driver still starts, with what is in {folder}"
        unit = kept
    else:
        yield "compile", None
        if kept is not None:
            # Types are not compared: they are for human readers, and name the C text's folder.
            same = (kept.programs, kept.maps) == (unit.programs, unit.maps)
            yield "cache", None if same else (
                f"the programs in {folder}, which the driver loads, are not what is compiled now: "
                "remove that folder")
    yield from try_programs(unit, pins)
