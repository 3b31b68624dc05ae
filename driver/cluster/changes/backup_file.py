"""Packs a backup of the cluster into one file, and takes it apart again."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from driver.cluster.folder import ClusterFolder
from driver.cluster.records import config_of
from driver.errors import InvalidArgument

SNAPSHOT, ABOUT = "snapshot.db", "cluster.json"
CA_FILES: Final = ("ca.crt", "ca.key")
SIZE_MAX: Final = 16 << 30
SMALL_MAX: Final = 1 << 20


@dataclass(frozen=True)
class Unpacked:
    """What a backup has beside the snapshot."""

    about: dict[str, Any]
    ca: tuple[bytes, bytes]  # as CA_FILES


def pack(out: IO[bytes], about: dict[str, Any], folder: ClusterFolder, snapshot: IO[bytes]) -> None:
    """Write a backup.  snapshot: all of that file.  Errors: OSError, StateError."""
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        _add(tar, ABOUT, json.dumps(about, indent=1).encode())
        for name in CA_FILES:
            _add(tar, name, folder.read(name))
        member = tarfile.TarInfo(SNAPSHOT)
        member.size, member.mode = snapshot.seek(0, os.SEEK_END), 0o600
        snapshot.seek(0)
        tar.addfile(member, snapshot)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    tar.addfile(member, io.BytesIO(content))


def unpack(source: Path, snapshot: Path) -> Unpacked:
    """Take a backup apart that is whole; the CA's key is not written.  Error: InvalidArgument.

    snapshot: the file to write.
    """
    read: dict[str, bytes] = {}
    try:
        with gzip.open(source) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            for name in (ABOUT, *CA_FILES, SNAPSHOT):
                member = tar.getmember(name)
                content = tar.extractfile(member)
                if content is None or member.size > (SIZE_MAX if name == SNAPSHOT else SMALL_MAX):
                    raise InvalidArgument(f"{source} is no backup of slim: {name} is no file")
                if name == SNAPSHOT:
                    with snapshot.open("wb") as out:
                        shutil.copyfileobj(content, out)
                else:
                    read[name] = content.read()
            while packed.read(1 << 20):
                pass  # to its end: there is the checksum
        fields: Any = json.loads(read[ABOUT].decode())
        config_of(fields["config"])
        float(fields["made_s"])
    except FileNotFoundError:
        raise InvalidArgument(f"{source} does not exist") from None
    except (OSError, tarfile.TarError, zlib.error, KeyError, ValueError, TypeError,
            EOFError) as error:
        raise InvalidArgument(f"{source} is no backup of slim, or damaged: {error}") from error
    certificate, key = (read[name] for name in CA_FILES)
    return Unpacked(fields, (certificate, key))
