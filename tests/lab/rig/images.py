"""Makes container images from this machine's own programs, so that no registry is needed.

An image is a tar for `docker import`, made once in a process.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.support.run.skips import CannotBeDownloaded

PROGRAMS = Path(__file__).with_name("programs")
PYTHON = "/usr/bin/python3.11"
_GET_GO = Path(__file__).with_name("get-go.sh")
# Parts of the standard library that no program in our containers imports.
_LEFT_OUT = re.compile(r"/(test|idlelib|tkinter|ensurepip|lib2to3|pydoc_data|config-3[^/]*|"
                       r"dist-packages|site-packages|unittest|sqlite3|curses|xmlrpc|turtle[^/]*)(/|$)")


class Image:
    """Files of an image, collected and then packed."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w")  # noqa: SIM115
        self._seen: set[str] = set()
        for folder in ("bin", "sbin", "etc", "tmp", "root", "var", "proc", "sys", "dev", "run"):
            self._folder(folder)
        self.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        self.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        self.text("etc/nsswitch.conf", "hosts: files dns\n")

    def _folder(self, name: str) -> None:
        if name and name not in self._seen:
            self._folder(os.path.dirname(name))
            self._seen.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            self._tar.addfile(info)

    def text(self, name: str, content: str, mode: int = 0o644) -> None:
        self._folder(os.path.dirname(name))
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content.encode()), mode
        self._tar.addfile(info, io.BytesIO(content.encode()))

    def link(self, name: str, target: str) -> None:
        self._folder(os.path.dirname(name))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(info)

    def file(self, source: str, name: str = "") -> None:
        """Copy one file, following symbolic links, to the same path or to `name`."""
        name = (name or source).lstrip("/")
        if name in self._seen:
            return
        self._folder(os.path.dirname(name))
        self._seen.add(name)
        real = os.path.realpath(source)
        info = tarfile.TarInfo(name)
        info.size, info.mode = os.path.getsize(real), os.stat(real).st_mode & 0o7777
        with open(real, "rb") as content:
            self._tar.addfile(info, content)

    def program(self, path: str, name: str = "") -> None:
        """Copy a program, to `name` if given, and the libraries that it loads."""
        self.file(path, name)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            self.file(os.path.normpath(library))  # a RUNPATH may hold ".."

    def command(self, name: str) -> None:
        """Copy the program of that name, with its libraries, to a folder in PATH."""
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found is None:
            raise FileNotFoundError(f"{name}: make test installs it")
        self.program(os.path.realpath(found))
        self.link(f"usr/local/bin/{name}", os.path.realpath(found))

    def tree(self, top: str) -> None:
        for folder, names, files in os.walk(top):
            names[:] = [n for n in names if not _LEFT_OUT.search(f"{folder}/{n}")]
            for file in files:
                if not _LEFT_OUT.search(f"{folder}/{file}"):
                    self.file(f"{folder}/{file}")

    def busybox(self) -> None:
        self.file("/bin/busybox", "bin/busybox")
        listed = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True,
                                check=True)
        for applet in listed.stdout.split():
            if applet != "busybox" and f"bin/{applet}" not in self._seen:
                self.link(f"bin/{applet}", "busybox")

    def packed(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


@functools.cache
def busybox() -> bytes:
    """Make the small image: one static binary of 2 MB."""
    image = Image()
    image.busybox()
    return image.packed()


@functools.cache
def tools(extra: Iterable[str] = ()) -> bytes:
    """Python, iperf3, ip, ss, ping, `extra`, and tests/lab/rig/programs in /programs."""
    image = Image()
    image.busybox()
    for name in ("iperf3", "ip", "ss", "ethtool", "ping", *extra):
        image.command(name)
    image.program(PYTHON)
    image.link("usr/bin/python3", PYTHON)
    image.tree("/usr/lib/python3.11")
    for program in sorted(PROGRAMS.glob("*.py")):
        image.file(str(program), f"programs/{program.name}")
    return image.packed()


@functools.cache
def go_names() -> bytes:
    """programs/go, built with Go 1.24 or newer, as the command `names`.

    Error: CannotBeDownloaded (skips the test).
    """
    built = subprocess.run([_GET_GO], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise CannotBeDownloaded(built.stderr.strip())
    image = Image()
    image.busybox()
    image.file(built.stdout.strip(), "usr/local/bin/names")
    return image.packed()


NGINX_CONF = """\
worker_processes 2;
daemon off;
user nobody nogroup;
pid /tmp/nginx.pid;
error_log stderr;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000;
    server {
        listen [::]:80 ipv6only=off;
        default_type text/plain;
        location / { return 200 "hello\\n"; }
        location /who { return 200 "$remote_addr $server_addr $server_port\\n"; }
    }
}
"""


@functools.cache
def servers() -> bytes:
    """Debian's servers and their clients: nginx, Redis, PostgreSQL, BIRD and others."""
    image = Image()
    image.busybox()
    for name in ("nginx", "wrk", "redis-server", "redis-cli", "redis-benchmark", "memcached",
                 "memcaslap", "memccapable", "memcstat", "etcd", "etcdctl", "iperf3", "bird",
                 "birdc"):
        image.command(name)
    image.text("etc/services", "http 80/tcp\n")  # wrk asks for the port by name
    image.text("etc/nginx/nginx.conf", NGINX_CONF)
    for folder in ("log", "lib"):  # nginx opens the first, makes folders in the other
        image.text(f"var/{folder}/nginx/.keep", "")
    postgresql(image)
    return image.packed()


def postgresql(image: Image) -> None:
    """Add server, initdb, psql and pgbench of the newest version, for a user other than root."""
    found = [p.parent.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise FileNotFoundError("postgresql: make test installs it")
    top = max(found, key=lambda version: int(version.name))
    for name in ("postgres", "initdb", "psql", "pgbench", "pg_isready"):
        image.program(str(top / "bin" / name))
        image.link(f"usr/local/bin/{name}", str(top / "bin" / name))
    for library in (top / "lib").glob("*.so"):
        if not library.name.startswith("llvmjit"):  # it would bring 100 MB of LLVM
            image.program(str(library))
    image.tree(f"/usr/share/postgresql/{top.name}")
    for zone in ("UTC", "GMT", "Etc/UTC"):
        image.file(f"/usr/share/zoneinfo/{zone}")
