"""Lends this machine's own programs to containers, unmodified, without an image that has them all.

Such a container sees /usr, and with it every program of Debian's packages.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from glob import glob
from pathlib import Path

from tests.lab.rig.hosts import Host
from tests.lab.rig.images import PROGRAMS
from tests.support.run.skips import CannotBeDownloaded

_GET_RESOLVED = Path(__file__).with_name("get-resolved.sh")
_RESOLVED = "/resolved"  # in the container
_RESOLVED_LIBRARIES = f"{_RESOLVED}/usr/lib/{{machine}}-linux-gnu/systemd"
# Debian's resolved would not start without its user, nor make a folder in one that is not there.
# It asks no server for names without a dot, unless it is told to.
_RESOLVED_STARTS = f"""
    echo 'systemd-resolve:x:995:995::/:/bin/sh' >> /etc/passwd
    echo 'systemd-resolve:x:995:' >> /etc/group
    mkdir -p /run/systemd /etc/systemd
    printf '%s\\n' '[Resolve]' DNS=127.0.0.11 ResolveUnicastSingleLabel=yes LLMNR=no \\
        MulticastDNS=no > /etc/systemd/resolved.conf
    export LD_LIBRARY_PATH={_RESOLVED_LIBRARIES.format(machine=os.uname().machine)}
    exec {_RESOLVED}/lib/systemd/systemd-resolved
"""


def path_of(name: str) -> str:
    """Return where a program is, here and in the container.  Error: FileNotFoundError."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name}: make test installs it")
    return os.path.realpath(found)  # /etc/alternatives is not lent


@functools.cache
def lent() -> tuple[str, ...]:
    """Return the options of `docker run` for a container that has this machine's programs."""
    folders = ["/usr", *(path for path in ("/lib", "/lib64") if os.path.exists(path)),
               *glob("/etc/java-*")]  # Java has a link to its settings there
    return tuple(word for path in folders for word in ("-v", f"{path}:{path}:ro"))


def put_static_musl_program(host: Host, container: str, folder: Path) -> str:
    """Compile programs/look.c with musl, and copy it to the container; return its path there."""
    target = folder / "look"
    subprocess.run([path_of("musl-gcc"), "-static", "-O1", "-Wall", "-Werror", "-o", target,
                    PROGRAMS / "look.c"], check=True)
    headers = subprocess.run(["readelf", "-lW", target], check=True, capture_output=True)
    assert b"INTERP" not in headers.stdout, "it is static"
    host.docker("cp", str(target), f"{container}:/look")
    return "/look"


@functools.cache
def resolved_option() -> tuple[str, ...]:
    """Return the option of a container in which `start_resolved` works.

    Error: CannotBeDownloaded (skips the test).
    """
    fetched = subprocess.run([_GET_RESOLVED], capture_output=True, text=True, check=False)
    if fetched.returncode != 0:
        raise CannotBeDownloaded(fetched.stderr.strip())
    return "-v", f"{fetched.stdout.strip()}:{_RESOLVED}:ro"


def start_resolved(host: Host, container: str) -> str:
    """Start systemd-resolved, without systemd and D-Bus; return its address in the container."""
    host.docker("exec", "-d", container, "sh", "-c", _RESOLVED_STARTS)
    return "127.0.0.53"
