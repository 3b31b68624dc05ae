"""Enters network namespaces, each time in a new thread for that one visit.

No thread ever comes back from a namespace: it ends there, so none can be left in the wrong one,
and the caller's thread never moves.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from driver.errors import LinkError

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_NS_GET_NSTYPE: Final = 0xB703  # ioctl on a file of nsfs: its CLONE_NEW... flag
_SO_NETNS_COOKIE: Final = 71

# os.setns is new in Python 3.12.
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceAbsent(LinkError):
    """There is no network namespace at the path, or not yet, or no longer."""


def run_in(path: str, function: Callable[[], T], *, refuse_own: bool = False) -> T:
    """Run `function` inside the network namespace at `path`; return or raise what it does.

    Blocks until it is done.  Sockets it opens stay in that namespace; threads it starts
    begin there.  refuse_own: fail if it is the caller's own namespace (what is right for a
    container would cut the host off).
    Errors: NamespaceAbsent, LinkError (refused, or not allowed to enter).
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def visit(namespace: int) -> None:
        try:
            _enter(namespace, path)
            result.append(function())
        except BaseException as error:  # passed on to the caller, whatever it is
            failure.append(error)

    with _open_namespace(path) as namespace:
        if refuse_own and _is_own(namespace):
            raise LinkError(f"network namespace {path} is the host's own: left alone")
        thread = threading.Thread(target=visit, args=(namespace,), name=f"netns {path}")
        thread.start()
        thread.join()
    if failure:
        try:
            raise failure[0]
        finally:
            failure.clear()  # else error -> traceback -> frame -> error is a cycle
    return result[0]


def cookie_of(path: str) -> int | None:
    """Return the namespace's cookie (64 bit, never reused until reboot); None if absent."""
    try:
        return run_in(path, current_cookie)
    except NamespaceAbsent:
        return None


def current_cookie() -> int:
    """Return the cookie of the calling thread's namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def exists(path: str) -> bool:
    """Tell whether a network namespace is mounted (or open) at `path`."""
    try:
        with _open_namespace(path):
            return True
    except NamespaceAbsent:
        return False


@contextmanager
def _open_namespace(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NamespaceAbsent(f"network namespace {path}: no such file") from error
    except OSError as error:
        raise LinkError(f"network namespace {path}: {error.strerror}") from error
    try:
        # dockerd creates the file first and then mounts the namespace over it; where mounts do
        # not propagate to us, it stays an empty file forever.
        try:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError as error:
            raise NamespaceAbsent(f"network namespace {path}: nothing is mounted there") from error
        if kind != _CLONE_NEWNET:
            raise NamespaceAbsent(f"{path} is a namespace of another kind")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_own(namespace: int) -> bool:
    there = os.fstat(namespace)
    here = os.stat("/proc/thread-self/ns/net")
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _enter(namespace: int, path: str) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        what = errno.errorcode.get(code, str(code))
        raise LinkError(f"network namespace {path}: cannot enter it: {os.strerror(code)} ({what})")


def same_path(sandbox_key: str) -> str:
    """Return a sandbox key's path for a driver that sees the host's own file system."""
    return sandbox_key
