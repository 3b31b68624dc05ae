"""Runs the programs that `slim cluster` stands on: etcdctl, systemctl and the small supervisor.

The only module below driver/ that runs programs, and each by name, with arguments that no shell
reads.  The driver itself does not import it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from driver.errors import SlimError, StoreUnavailable
from driver.store.etcd.advice import advice, said
from driver.store.etcd.connection import EtcdSettings

COMMAND_S = 20.0
_LOGGED_ERROR = re.compile(r'"error":"((?:[^"\\]|\\.)*)"')


class ProgramFailed(SlimError):
    """A program ended with an error; the text has its last line."""


def run(argv: Sequence[str], *, timeout_s: float = COMMAND_S, data: bytes | None = None) -> bytes:
    """Return a program's standard output.  Error: ProgramFailed."""
    try:
        done = subprocess.run(  # noqa: S603 - an argument vector, and no shell
            argv, input=data, capture_output=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL if data is None else None)
    except FileNotFoundError:
        raise ProgramFailed(f"{argv[0]} is missing") from None
    except subprocess.TimeoutExpired:
        raise ProgramFailed(f"{' '.join(argv[:3])}: no end after {timeout_s:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise ProgramFailed(f"{argv[0]}: {_told(lines) or f'status {done.returncode}'}")
    return done.stdout


def _told(lines: list[str]) -> str:
    """Return the error among what a program printed; etcdctl prints its libraries' logs, too."""
    for line in lines:
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")
    logged = [found[1] for line in lines if (found := _LOGGED_ERROR.search(line))]
    return logged[-1] if logged else lines[-1] if lines else ""


class Etcdctl:
    """etcd's own command line, for what python-etcd3 does not know.  Error: StoreUnavailable."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings

    def __call__(self, *arguments: str, timeout_s: float = COMMAND_S, in_words: bool = False
                 ) -> Any:
        """Return the answer, from JSON; None: it answers `in_words`."""
        if shutil.which("etcdctl") is None:
            raise StoreUnavailable("etcdctl is missing: apt-get install etcd-client")
        etcd = self._settings
        argv = ["etcdctl", f"--write-out={'simple' if in_words else 'json'}", "--dial-timeout=3s",
                f"--command-timeout={timeout_s:.0f}s", f"--endpoints={','.join(etcd.endpoints)}"]
        if etcd.ca:
            argv += [f"--cacert={etcd.ca}", f"--cert={etcd.cert}", f"--key={etcd.key}"]
        try:
            answer = run([*argv, *arguments], timeout_s=timeout_s + 5)
        except ProgramFailed as error:
            text = str(error).partition(": ")[2]
            raise StoreUnavailable(f"etcd refuses `{' '.join(arguments[:2])}`: {said(text)}; "
                                   f"{advice([('', text)])}") from None
        try:
            return json.loads(answer)
        except ValueError:
            return None  # some commands answer in words
