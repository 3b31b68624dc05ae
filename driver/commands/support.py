"""Runs `slim support FILE`: what somebody who is asked for help needs to see of this host."""

from __future__ import annotations

import os
import time
from pathlib import Path

from driver.commands.saying import say
from driver.errors import InvalidArgument, SlimError
from driver.settings import Settings
from driver.support.bundle import collect, write
from driver.support.parts import parts
from driver.support.redacting import Redacting, secrets_of

SUFFIX = ".tar.gz"


def run_support(settings: Settings, name: str) -> int:
    """Write the bundle and say what is in it; return 0.

    name: the file.  Errors: InvalidArgument, SlimError.
    """
    path = Path(name).absolute()
    if not name.endswith((SUFFIX, ".tgz")):
        raise InvalidArgument(f"{name!r} should end in {SUFFIX}, which is what it is")
    if path.exists():
        raise InvalidArgument(f"{path} is there already: name another file, or remove it")
    if os.geteuid() != 0:
        raise SlimError("run as root (su -, or sudo -s): slim support")
    now_s = time.time()
    files = collect(parts(settings), Redacting(secrets_of(settings)))
    length = write(path, path.name.removesuffix(SUFFIX).removesuffix(".tgz"), files, now_s)
    for part, data in files.items():
        say(f"{len(data):>9}  {part}")
    say(f"{path}: {length} bytes, for root only.  Secrets are left out; names and addresses are "
          "not: read it before you give it away")
    return 0
