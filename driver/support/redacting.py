"""Takes secrets out of texts before they leave this host.

Two ways at once: what is known to be secret here (the contents of files), wherever it stands, and
what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from driver.settings import Settings

LEFT_OUT: Final = "[left out]"
LEAST: Final = 6  # a shorter secret would take other words out of the texts
_SECRET_FILES: Final = ("*.key", "*password*", "*secret*", "*token*")
_SHAPES: Final = (
    # The user and password of a URL, up to its last @.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/\"'<>]*@", re.IGNORECASE), rf"\1{LEFT_OUT}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
                re.DOTALL), LEFT_OUT),
    (re.compile(r"\bSLIM-\d+-[\w-]+"), LEFT_OUT),  # a token of `slim cluster`
    (re.compile(r"\bSWMTKN-[\w-]+"), LEFT_OUT),  # a token of Docker's swarm
    (re.compile(r"((?:password|passwd|secret|token|authorization)[\"']?\s*[=:]\s*)"
                r"(\"[^\"]*\"|'[^']*'|[^\s,;}]+)", re.IGNORECASE), rf"\1{LEFT_OUT}"),
)


class Redacting:
    """Knows this host's secrets."""

    def __init__(self, secrets: Iterator[str] | tuple[str, ...] = ()) -> None:
        found = {each for each in secrets if len(each) >= LEAST}
        self._secrets = sorted(found, key=len, reverse=True)  # one may begin with another

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, LEFT_OUT)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text


def secrets_of(settings: Settings) -> Iterator[str]:
    """Yield the texts, and their lines, of this host's files that hold secrets."""
    files = [Path(name) for name in (settings.etcd_password_file, settings.etcd_key) if name]
    for folder in (Path(settings.cluster), Path(settings.state)):
        files += [each for pattern in _SECRET_FILES for each in folder.rglob(pattern)]
    for file in files:
        try:
            text = file.read_text(errors="replace").strip()
        except OSError:
            continue  # what cannot be read here cannot be told, either
        yield text
        yield from (line.strip() for line in text.splitlines() if "-----" not in line)
