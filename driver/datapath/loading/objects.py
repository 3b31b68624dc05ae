"""Creates kernel objects from compiled code: types (BTF), maps with their pins, programs.

Nothing is attached here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from driver.datapath.code.compiled import MapSpec
from driver.datapath.code.programs import Program
from driver.datapath.loading.libbpf import checked, lib
from driver.errors import DatapathError

_LOG_BYTES = 1 << 24  # for the verifier's log: its end matters
_LICENSE = b"GPL"  # some helpers require it


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info; the kernel fills as much as there is room for."""

    _fields_ = (("type", ctypes.c_uint32), ("id", ctypes.c_uint32), ("key_size", ctypes.c_uint32),
                ("value_size", ctypes.c_uint32), ("max_entries", ctypes.c_uint32),
                ("map_flags", ctypes.c_uint32), ("name", ctypes.c_char * 16),
                ("ifindex", ctypes.c_uint32), ("btf_vmlinux_value_type_id", ctypes.c_uint32),
                ("netns_dev", ctypes.c_uint64), ("netns_ino", ctypes.c_uint64),
                ("btf_id", ctypes.c_uint32), ("btf_key_type_id", ctypes.c_uint32),
                ("btf_value_type_id", ctypes.c_uint32))


class _BtfInfo(ctypes.Structure):
    """The beginning of struct bpf_btf_info."""

    _fields_ = (("btf", ctypes.c_uint64), ("btf_size", ctypes.c_uint32), ("id", ctypes.c_uint32))


_Info = TypeVar("_Info", _MapInfo, _BtfInfo)


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts of libbpf 1.1."""

    _fields_ = (("sz", ctypes.c_size_t), ("btf_fd", ctypes.c_uint32),
                ("btf_key_type_id", ctypes.c_uint32), ("btf_value_type_id", ctypes.c_uint32),
                ("btf_vmlinux_value_type_id", ctypes.c_uint32), ("inner_map_fd", ctypes.c_uint32),
                ("map_flags", ctypes.c_uint32), ("map_extra", ctypes.c_uint64),
                ("numa_node", ctypes.c_uint32), ("map_ifindex", ctypes.c_uint32))


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf 1.1."""

    _fields_ = (("sz", ctypes.c_size_t), ("attempts", ctypes.c_int),
                ("expected_attach_type", ctypes.c_int), ("prog_btf_fd", ctypes.c_uint32),
                ("prog_flags", ctypes.c_uint32), ("prog_ifindex", ctypes.c_uint32),
                ("kern_version", ctypes.c_uint32), ("attach_btf_id", ctypes.c_uint32),
                ("attach_prog_fd", ctypes.c_uint32), ("attach_btf_obj_fd", ctypes.c_uint32),
                ("fd_array", ctypes.c_void_p), ("func_info", ctypes.c_void_p),
                ("func_info_cnt", ctypes.c_uint32), ("func_info_rec_size", ctypes.c_uint32),
                ("line_info", ctypes.c_void_p), ("line_info_cnt", ctypes.c_uint32),
                ("line_info_rec_size", ctypes.c_uint32), ("log_level", ctypes.c_uint32),
                ("log_size", ctypes.c_uint32), ("log_buf", ctypes.c_void_p))


@dataclass(frozen=True)
class Shape:
    """The properties of a map in the kernel, named as in MapSpec."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def map_info(fd: int) -> tuple[Shape, int, int, int]:
    """Return a map's shape, its BTF id, and its key's and value's types there (0: none)."""
    info = _info(fd, _MapInfo())
    return (Shape(info.type, info.key_size, info.value_size, info.max_entries, info.map_flags),
            info.btf_id, info.btf_key_type_id, info.btf_value_type_id)


def read_btf(btf_id: int) -> bytes:
    """Return the types (BTF) loaded under this id."""
    fd = checked(lib.bpf_btf_get_fd_by_id(btf_id), f"types {btf_id}")
    try:
        size = _info(fd, _BtfInfo()).btf_size
        data = ctypes.create_string_buffer(size)
        _info(fd, _BtfInfo(btf=ctypes.addressof(data), btf_size=size))
    finally:
        os.close(fd)
    return data.raw


def _info(fd: int, info: _Info) -> _Info:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    checked(lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)),
            "asking the kernel for an object")
    return info


def load_btf(data: bytes) -> int:
    """Load the types of the maps' keys and values into the kernel; return a descriptor."""
    return checked(lib.bpf_btf_load(data, ctypes.c_size_t(len(data)), None), "loading maps' types")


def open_map(spec: MapSpec, btf_fd: int, pin: Path) -> int:
    """Return a descriptor of the map pinned at `pin`; create the map if there is none.

    Error: DatapathError, also if the pinned map has another type, size or flags.
    """
    fd = lib.bpf_obj_get(bytes(pin))
    if fd == -errno.ENOENT:
        return _make_map(spec, btf_fd, pin)
    fd = checked(fd, f"open {pin}")
    try:
        wanted = Shape(spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)
        found, *_ = map_info(fd)
        if found != wanted:
            raise DatapathError(f"{pin} is another map than this slim's: {found}, not {wanted}")
    except DatapathError:
        os.close(fd)
        raise
    return fd


def _make_map(spec: MapSpec, btf_fd: int, pin: Path) -> int:
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=spec.flags)
    if spec.btf_key:
        options.btf_fd = btf_fd
        options.btf_key_type_id, options.btf_value_type_id = spec.btf_key, spec.btf_value
    fd = checked(lib.bpf_map_create(spec.type, spec.name.encode(), spec.key_size, spec.value_size,
                                    spec.max_entries, ctypes.byref(options)),
                 f"make map {spec.name}")
    try:
        checked(lib.bpf_obj_pin(fd, bytes(pin)), f"pin {pin}")
    except DatapathError:
        os.close(fd)
        raise
    return fd


def load_program(program: Program, code: bytes) -> int:
    """Load a program into the kernel; return its descriptor.

    Error: DatapathError, with the verifier's log on standard error.
    """
    options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions),
                           expected_attach_type=program.attach_type or 0)
    fd = _load(program, code, options)
    if fd >= 0:
        return fd
    reasons = ctypes.create_string_buffer(_LOG_BYTES)
    options.log_level, options.log_size = 1, _LOG_BYTES
    options.log_buf = ctypes.addressof(reasons)
    # Only on the second attempt: writing the log takes longer than all the rest.
    fd = _load(program, code, options)
    if fd >= 0:
        return fd
    print(f"program {program.name}: {os.strerror(-fd)}\n{reasons.value.decode(errors='replace')}",
          file=sys.stderr)
    return checked(fd, f"the kernel refuses program {program.name}")


def _load(program: Program, code: bytes, options: _LoadOptions) -> int:
    return int(lib.bpf_prog_load(program.type, program.name.encode(), _LICENSE, code,
                                 ctypes.c_size_t(len(code) // 8), ctypes.byref(options)))
