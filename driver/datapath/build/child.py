"""Compiles in a process of its own: the compiler's 100 MB go when it ends.

    python -m driver.datapath.build.child KERNEL_FOLDER [HEADERS]

The child writes the programs to standard output, or the reason why there are none.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from driver.datapath.build.compiling import compile_unit
from driver.datapath.build.encoding import decode, encode
from driver.datapath.code.compiled import Compiled
from driver.errors import DatapathError

LIMIT_S: Final = 300  # an emulated machine takes two minutes
FAILED: Final = 3  # exit status: standard output is a DatapathError's text
_KEY: Final = "child"


def compile_apart(kernel_folder: Path, headers: Path | None = None) -> Compiled:
    """Return compile_unit's result, from a child.  Error: DatapathError."""
    packages = Path(__file__).resolve().parents[3]  # that of `driver`, wherever we were started
    command = [sys.executable, "-m", __name__, str(kernel_folder.resolve()),
               *([str(headers.resolve())] if headers else [])]
    try:
        done = subprocess.run(command, cwd=packages, stdin=subprocess.DEVNULL,  # noqa: S603
                              stdout=subprocess.PIPE, timeout=LIMIT_S, check=False)
        if done.returncode == 0:
            return decode(done.stdout, _KEY)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise DatapathError(f"programs cannot be compiled: {error}") from error
    raise DatapathError(done.stdout.decode(errors="replace") if done.returncode == FAILED else
                        f"the compiler ended with {done.returncode}")


def main(arguments: Sequence[str]) -> int:
    """Be the child."""
    try:
        made = compile_unit(*map(Path, arguments))
    except DatapathError as error:
        sys.stdout.write(str(error))
        return FAILED
    sys.stdout.buffer.write(encode(_KEY, made))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
