"""Owns finding out what this host makes of the programs: for the doctor, who attaches none.

It must not believe in what was compiled before, since something may have changed that nobody
thought of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from driver.datapath.cache import FOLDER, kept_unit
from driver.datapath.compiling import compile_unit
from driver.datapath.load import try_programs
from driver.datapath.programs import KERNEL_FOLDER
from driver.errors import DatapathError


def probe(pins: Path, kernel_folder: Path = KERNEL_FOLDER, folder: Path = FOLDER
          ) -> Iterator[tuple[str, str | None]]:
    """Compile and load each program for real; yield (name, error or None).

    pins: a folder for that time.  folder: what was compiled before, which is looked at only.
    Nothing is left.  Error: DatapathError.
    """
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
            # The types are for people's eyes, and name the folder of the C text.
            same = (kept.programs, kept.maps) == (unit.programs, unit.maps)
            yield "cache", None if same else (
                f"the programs in {folder}, which the driver loads, are not what is compiled now: "
                "remove that folder")
    yield from try_programs(unit, pins)
