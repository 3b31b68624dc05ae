"""Makes ctypes classes from BCC's descriptions of the C types of a map's keys and values.

A description is a scalar's name, or [name, fields, "struct" or "struct_packed"]; a field is
[name, description], or [name, description, [length]] for an array.  Unions, bit fields and
nameless members are refused: no map has them.
"""

from __future__ import annotations

import ctypes
from typing import Any

from driver.errors import DatapathError

_SCALARS = {
    "char": ctypes.c_char, "unsigned char": ctypes.c_ubyte, "short": ctypes.c_short,
    "unsigned short": ctypes.c_ushort, "int": ctypes.c_int, "unsigned int": ctypes.c_uint,
    "long": ctypes.c_long, "unsigned long": ctypes.c_ulong, "long long": ctypes.c_longlong,
    "unsigned long long": ctypes.c_ulonglong,
}


def ctypes_class(description: Any, size: int) -> Any:
    """Return a class whose instances have `size` bytes.  Error: DatapathError."""
    try:
        made = _class(description)
    except (KeyError, TypeError, ValueError) as error:
        raise DatapathError(f"the C type {description} is not understood") from error
    if ctypes.sizeof(made) != size:
        raise DatapathError(f"the C type {description} has {ctypes.sizeof(made)} bytes, not {size}")
    return made


def _class(description: Any) -> Any:
    if isinstance(description, str):
        return _SCALARS[description]
    name, fields, kind = description
    if kind not in ("struct", "struct_packed"):
        raise ValueError(kind)
    return type(name, (ctypes.Structure,), {
        **({"_pack_": 1} if kind == "struct_packed" else {}),
        "_fields_": [(field, _field(*parts)) for field, *parts in fields]})


def _field(description: Any, lengths: list[int] | None = None) -> Any:
    if lengths is None:
        return _class(description)
    (length,) = lengths
    return _class(description) * length
