"""Lists the sandboxes whose inside is still to be torn down (services.ports.Teardowns).

The list outlives a driver that is killed between Leave's answer and its work; a reboot may lose it,
but removes the namespaces too.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from driver.state.files import step

FOLDER = "teardowns"


class FiledTeardowns:
    """Stores one empty file per sandbox, named by its key, so nothing can be half-written."""

    def __init__(self, state: Path) -> None:
        """Keep the files in a folder of their own inside `state`."""
        self._folder = state / FOLDER

    def begin(self, sandbox_key: str) -> None:
        """See ports.Teardowns."""
        with step(f"sandbox {sandbox_key}: cannot note that it is left"):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._file(sandbox_key).touch(mode=0o600)

    def end(self, sandbox_key: str) -> None:
        """See ports.Teardowns."""
        with step(f"sandbox {sandbox_key}: cannot remove the note that it was left"):
            self._file(sandbox_key).unlink(missing_ok=True)

    def outstanding(self) -> list[str]:
        """See ports.Teardowns."""
        with step("cannot read which sandboxes were left"):
            try:
                return sorted(unquote(file.name) for file in self._folder.iterdir())
            except FileNotFoundError:
                return []

    def _file(self, sandbox_key: str) -> Path:
        return self._folder / quote(sandbox_key, safe="")
