"""Named network namespaces for tests, made and always removed; needs root and iproute2.

Namespaces are reached by nsenter and setns, not by `ip netns exec`, which would remount
/sys and hide the bpf file system.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from driver.link.netlink import netns as namespaces

T = TypeVar("T")

PREFIX = "slimtest-"


@dataclass(frozen=True)
class Netns:
    """One namespace of a test.  Interfaces left in it die with it."""

    name: str

    @property
    def path(self) -> str:
        """Where it is mounted: serves as a sandbox key too."""
        return f"/run/netns/{self.name}"

    @property
    def cookie(self) -> int:
        return self.call(namespaces.current_cookie)

    def ip(self, *arguments: str) -> str:
        """Run `ip <arguments>` for the namespace, words may be joined: ns.ip("link show")."""
        words = [word for argument in arguments for word in argument.split()]
        return _run(["ip", "-n", self.name, *words])

    def ips(self, *commands: str) -> None:
        """Run `ip <command>` for the namespace, one after the other, in one process."""
        _run(["ip", "-n", self.name, "-batch", "-"], "".join(f"{each}\n" for each in commands))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside, output captured."""
        return subprocess.run(self.command(*command), check=check, capture_output=True,
                              text=True, timeout=60)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program inside; the caller ends it."""
        return subprocess.Popen(self.command(*command), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def command(self, *command: str) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *command]

    def call(self, function: Callable[[], T]) -> T:
        """Run a Python function inside, in a thread of its own.

        Sockets it returns stay in the namespace and can be used from anywhere.
        """
        return namespaces.run_in(self.path, function)

    def sysctl(self, key: str, value: str | int) -> None:
        """Set net.<key>, for example sysctl("ipv4.conf.all.rp_filter", 1)."""
        path = "/proc/sys/net/" + key.replace(".", "/")
        # procfs shows the sysctls of the namespace of whoever opens the file
        self.call(lambda: Path(path).write_text(f"{value}\n"))

    def ifindex(self, interface: str) -> int:
        return self.call(lambda: socket.if_nametoindex(interface))


def require_root() -> None:
    """Skip where namespaces cannot be made, and say what is missing."""
    missing = [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]
    reason = ("not root" if os.geteuid() != 0 else
              f"missing: {', '.join(missing)}" if missing else "")
    if reason:
        pytest.skip(reason)


@contextmanager
def made(hint: str = "ns") -> Iterator[Netns]:
    """Make a namespace with lo up, named after `hint`, and remove it at the end."""
    namespace = Netns(f"{PREFIX}{hint}-{os.getpid()}-{secrets.token_hex(3)}")
    _run(["ip", "netns", "add", namespace.name])
    try:
        namespace.ip("link set lo up")
        yield namespace
    finally:
        _run(["ip", "netns", "del", namespace.name])


@pytest.fixture
def make_netns() -> Iterator[Callable[[str], Netns]]:
    """Factory: make_netns("a") returns a new namespace; all go at the end of the test."""
    require_root()
    _sweep()
    with ExitStack() as stack:
        yield lambda hint="ns": stack.enter_context(made(hint))


def _sweep() -> None:
    """Remove what a test run that was killed has left: its process is no more."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
        owner = name.removeprefix(PREFIX).split("-")[-2:-1]
        if name.startswith(PREFIX) and owner and not os.path.exists(f"/proc/{owner[0]}"):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def join(left: Netns, left_name: str, right: Netns, right_name: str, *, mtu: int = 1500) -> None:
    """Connect two namespaces by a veth pair, both ends up, without addresses."""
    left.ip(f"link add {left_name} mtu {mtu} type veth peer name {right_name} mtu {mtu} "
            f"netns {right.name}")
    left.ip(f"link set {left_name} up")
    right.ip(f"link set {right_name} up")


def _run(command: list[str], text: str | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60,
                          input=text)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {text or ''}{done.stderr.strip()}")
    return done.stdout
