"""A certificate authority for tests, in a folder of its own; made with openssl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Files: ca.pem, and <name>.pem with <name>.key for each certificate issued."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("openssl"):
            pytest.skip("openssl is missing (Debian package openssl)")
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.ca = str(folder / "ca.pem")
        self._openssl("req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem",
                      "-subj", "/CN=ca", "-days", "2")

    def issue(self, name: str, addresses: Sequence[str] = ("127.0.0.1",), days: int = 2
              ) -> tuple[str, str, str]:
        """CA, certificate and key (for server and client) as PEM files; anew if they exist.

        `days` from now it expires: -1 is yesterday.
        """
        # No common name: etcd's gateway refuses who could log in by one.
        self._openssl("req", *NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                      "-subj", f"/O={name}")
        (self.folder / "names").write_text(
            f"subjectAltName={','.join(f'IP:{address}' for address in addresses)}\n")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                      "-CAcreateserial", "-out", f"{name}.pem", "-days", str(days),
                      "-extfile", "names")
        return self.ca, str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


def install(source: Sequence[str], target: Sequence[str]) -> None:
    """Replace files by others, as an administrator does."""
    for new, old in zip(source, target, strict=True):
        shutil.copyfile(new, f"{old}.new")
        Path(f"{old}.new").rename(old)
