"""Encodes compiled programs as JSON: for files, and from the process that compiled them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from typing import Any

from driver.datapath.code.compiled import Compiled, MapSpec

_SCHEMA = 1


def encode(key: str, compiled: Compiled) -> bytes:
    """Return a file's content: JSON, with a digest of `key` and what is in `compiled`."""
    body = {"programs": {name: _text(code) for name, code in compiled.programs.items()},
            "maps": [asdict(spec) for spec in compiled.maps], "btf": _text(compiled.btf)}
    return json.dumps({"schema": _SCHEMA, "key": key, "digest": _digest(key, body),
                       "compiled": body}).encode()


def decode(data: bytes, key: str) -> Compiled:
    """Return what encode() was given.  Error: ValueError, if content or key differ."""
    try:
        found = json.loads(data)
        if found["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {found['schema']}, {_SCHEMA} is understood")
        body = found["compiled"]
        if found["digest"] != _digest(key, body):
            raise ValueError("its digest is another one")
        return Compiled({name: _bytes(text) for name, text in body["programs"].items()},
                        tuple(MapSpec(**spec) for spec in body["maps"]), _bytes(body["btf"]))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is none of slim's: {error!r}") from error


def _digest(key: str, body: Any) -> str:
    return hashlib.sha256(f"{key} {json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
