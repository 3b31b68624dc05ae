"""Packs a backup of the cluster into one file, and takes it apart again."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any, Final

from driver.cluster.folder import ClusterFolder
from driver.cluster.records import config_of
from driver.errors import InvalidArgument

SNAPSHOT, ABOUT = "snapshot.db", "cluster.json"
CA_FILES: Final = ("ca.crt", "ca.key")
SIZE_MAX: Final = 16 << 30


def pack(path: Path, about: dict[str, Any], folder: ClusterFolder, snapshot: Path) -> None:
    """Write a new file at `path`, which only its owner can read.  Errors: OSError, StateError."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as tar:
        _add(tar, ABOUT, json.dumps(about, indent=1).encode())
        for name in CA_FILES:
            _add(tar, name, folder.read(name))
        tar.add(snapshot, SNAPSHOT)
        tar.close()
        out.flush()
        os.fsync(out.fileno())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    tar.addfile(member, io.BytesIO(content))


def unpack(source: Path, folder: Path) -> None:
    """Take the files that we know out of a backup that is whole.  Error: InvalidArgument."""
    try:
        with gzip.open(source) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            for name in (ABOUT, *CA_FILES, SNAPSHOT):
                member = tar.getmember(name)
                content = tar.extractfile(member)
                if content is None or member.size > SIZE_MAX:
                    raise InvalidArgument(f"{source} is no backup of slim: {name} is no file")
                with (folder / name).open("wb") as out:
                    shutil.copyfileobj(content, out)
            while packed.read(1 << 20):
                pass  # to its end: there is the checksum
        fields: Any = json.loads((folder / ABOUT).read_text())
        config_of(fields["config"])
        float(fields["made_s"])
    except FileNotFoundError:
        raise InvalidArgument(f"{source} does not exist") from None
    except (OSError, tarfile.TarError, zlib.error, KeyError, ValueError, TypeError,
            EOFError) as error:
        raise InvalidArgument(f"{source} is no backup of slim, or damaged: {error}") from error
