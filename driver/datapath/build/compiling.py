"""Compiles the C text into a Compiled.  Takes 2 s of one core, and 100 MB that are never freed.

BCC creates maps in order to compile; they are gone before this returns.  Only this module imports
BCC, and only when it has to compile.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

from driver.datapath.build.headers import header_tree
from driver.datapath.code.compiled import (
    RING_BUFFER,
    Compiled,
    MapSpec,
    constant_flags,
    unrelocated,
)
from driver.datapath.code.programs import ALL_PROGRAMS, BCC_COMES_FROM, KERNEL_FOLDER, unit_text
from driver.datapath.loading.objects import map_info, read_btf
from driver.errors import DatapathError

# Unrolled loops would add a third to the compile time, and no loop is on a packet's path.
FLAGS = ("-Wno-unused-function", "-fno-unroll-loops", *constant_flags())


def compile_unit(kernel_folder: Path = KERNEL_FOLDER, headers: Path | None = None) -> Compiled:
    """Compile the text of all programs.

    headers: a folder used during compilation, see header_tree.
    Error: DatapathError, with the compiler's complaint on standard error.
    """
    try:
        import bcc  # noqa: PLC0415 - loads a whole compiler
    except (ImportError, OSError) as error:
        raise DatapathError(
            f"programs cannot be compiled: {error}; {BCC_COMES_FROM}") from error
    with header_tree(kernel_folder, headers) as tree:
        before = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        try:
            module = bcc.BPF(text=unit_text(kernel_folder).encode(),
                             cflags=[f"-I{kernel_folder / 'include'}", *FLAGS])
        except Exception as error:  # BCC raises bare Exceptions
            raise DatapathError(f"programs do not compile: {error}") from error
        finally:
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before
    try:
        return _read(bcc.lib, module)
    finally:
        module.cleanup()


def _read(lib: Any, module: Any) -> Compiled:
    """Extract the programs from BCC's module, and the maps that it created for them."""
    lib.bpf_table_name.restype = ctypes.c_char_p
    handle = ctypes.c_void_p(module.module)
    names = [lib.bpf_table_name(handle, ctypes.c_size_t(number))
             for number in range(lib.bpf_num_tables(handle))]
    descriptors = [int(lib.bpf_table_fd(module.module, name)) for name in names]
    btf_ids = {map_info(fd)[1] for fd in descriptors} - {0}  # some kinds of maps have no types
    if len(btf_ids) != 1:
        raise DatapathError("the compiler has not told the kernel the types of the maps")
    maps = []
    for name, fd in zip(names, descriptors, strict=True):
        shape, _, btf_key, btf_value = map_info(fd)
        maps.append(MapSpec(
            name.decode(), shape.type, shape.key_size, shape.value_size, shape.max_entries,
            shape.flags, btf_key, btf_value,
            *((json.loads(lib.bpf_table_key_desc(module.module, name)),
               json.loads(lib.bpf_table_leaf_desc(module.module, name)))
              if shape.type != RING_BUFFER else (None, None))))  # BCC makes a key up
    places = {fd: place for place, fd in enumerate(descriptors)}
    programs = {}
    for program in ALL_PROGRAMS:
        try:
            programs[program.name] = unrelocated(module.dump_func(program.name.encode()), places)
        except Exception as error:  # BCC raises bare Exceptions
            raise DatapathError(f"program {program.name} is unusable: {error}") from error
    return Compiled(programs, tuple(maps), read_btf(btf_ids.pop()))
