"""Kernel settings and routes of namespaces that several tests use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.world.netns import Netns

SYSCTLS = Path("/proc/sys/net/ipv4")
# Setting ip_forward sets others of conf/ too, so conf/ comes after it.
FOLDERS = (SYSCTLS, *(SYSCTLS / "conf" / name for name in ("all", "default", "eth0")))


def _values() -> dict[Path, str]:
    return {path: path.read_text() for folder in FOLDERS if folder.exists()
            for path in sorted(folder.iterdir())
            if path.is_file() and path.stat().st_mode & 0o600 == 0o600}


def _routes() -> str:
    return Path("/proc/thread-self/net/route").read_text()


@contextmanager
def put_back(namespace: Netns) -> Iterator[None]:
    """Set what a test has set of net.ipv4 back; no route of it may be left.

    The next test would pass or fail by what ran before it.
    """
    values, routes = namespace.call(_values), namespace.call(_routes)
    yield

    def put() -> None:
        for path, value in _values().items():
            if path in values and value != values[path]:
                path.write_text(values[path])

    namespace.call(put)
    assert namespace.call(_values) == values
    left = namespace.call(_routes)
    assert left == routes, f"routes of {namespace.name} have changed:\n{left}"
