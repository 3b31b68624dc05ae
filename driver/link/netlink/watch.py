"""Watches many network namespaces for changes, in one thread.

The callback reads the state itself.  So messages are dropped unread, and lost messages (ENOBUFS)
are news like any other.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import netns as namespaces
from driver.link.netlink.netns import same_path

_log = logging.getLogger(__name__)

_NETLINK_NETFILTER: Final = 12
# RTMGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE
LINK, TC, ADDRESS4, ROUTE4, RULE4, ADDRESS6, ROUTE6 = 0x1, 0x8, 0x10, 0x40, 0x80, 0x100, 0x400
RULE6: Final = 1 << 18  # RTNLGRP_IPV6_RULE, 19, as a bit
TABLES: Final = 0x40  # NFNLGRP_NFTABLES, 7, as a bit
INSIDE: Final = LINK | TC | ADDRESS4 | ADDRESS6 | ROUTE4 | RULE4
OVER_IPV6: Final = INSIDE | ROUTE6 | RULE6  # what the host path over an IPv6 underlay needs
_TABLES_HERE, _REMOVALS_HERE = "tables", "removals"  # these are no sandbox's keys
_RECEIVE_BYTES: Final = 1 << 16
_READS: Final = 64  # of one socket before the next one's turn
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_IFINDEX_AT: Final = _HEADER.size + 4  # the same in messages of links and of tc


class NamespaceWatch:
    """ports.Watch for sandboxes, and the same for the host's own namespace.  Thread-safe."""

    def __init__(self, on_change: Callable[[str], None],
                 path_of: Callable[[str], str] = same_path, groups: int = INSIDE) -> None:
        """on_change: called from the thread with the sandbox's key, perhaps several times in a row.

        path_of: as in sandbox.  groups: INSIDE or OVER_IPV6: what is reported of sandboxes.
        """
        self._groups = groups
        self._on_change = on_change
        self._path_of = path_of
        self._guard = threading.Lock()
        self._watched: dict[str, list[socket.socket]] = {}
        self._by_descriptor: dict[int, tuple[socket.socket, Callable[[bytes], None]]] = {}
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._listen, name="namespaces", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the sockets of all namespaces."""
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        for key in list(self._watched):
            self.remove(key)
        self._poll.close()
        os.close(self._wake)

    def add(self, sandbox_key: str) -> None:
        """See ports.Watch."""
        with self._guard:
            if sandbox_key in self._watched:
                return
        opened: list[socket.socket] = []
        namespaces.run_in(self._path_of(sandbox_key), lambda: opened.extend(
            _open(self._groups, TABLES)),
                          refuse_own=True)
        self._take(sandbox_key, opened, lambda _: self._on_change(sandbox_key))

    def watch_tables_here(self, told: Callable[[], None]) -> None:
        """Report changes of nftables in the calling thread's namespace.  Error: LinkError."""
        self._take(_TABLES_HERE, _open(0, TABLES), lambda _: told())

    def watch_removals_here(self, told: Callable[[int], None]) -> None:
        """Report, by ifindex, removed links, filters and queueing disciplines in this namespace.

        0: some were missed.  Error: LinkError.
        """
        def read(message: bytes) -> None:
            for ifindex in _removed(message) if message else (0,):
                told(ifindex)

        self._take(_REMOVALS_HERE, _open(LINK | TC, 0), read)

    def remove(self, sandbox_key: str) -> None:
        """See ports.Watch."""
        with self._guard:
            for opened in self._watched.pop(sandbox_key, ()):
                self._by_descriptor.pop(opened.fileno(), None)
                with suppress(OSError):
                    self._poll.unregister(opened.fileno())
                opened.close()

    def sweep(self) -> None:
        """See ports.Watch."""
        with self._guard:
            keys = [key for key in self._watched if key not in (_TABLES_HERE, _REMOVALS_HERE)]
        for key in keys:
            if not os.path.exists(self._path_of(key)):
                self.remove(key)

    def _take(self, key: str, opened: list[socket.socket], read: Callable[[bytes], None]) -> None:
        with self._guard:
            if key in self._watched:  # two threads added it at once
                for each in opened:
                    each.close()
                return
            self._watched[key] = opened
            for each in opened:
                self._by_descriptor[each.fileno()] = each, read
                self._poll.register(each.fileno(), select.EPOLLIN)

    def _listen(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._wake:
                    return
                try:
                    self._drain(descriptor)
                except Exception:  # the thread must outlive a listener's mistake
                    _log.exception("a change of a namespace was not handled")

    def _drain(self, descriptor: int) -> None:
        for _ in range(_READS):
            with self._guard:  # never held during a callback
                found = self._by_descriptor.get(descriptor)
                if found is None:
                    return  # removed meanwhile
                try:
                    message = found[0].recv(_RECEIVE_BYTES)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        return  # EAGAIN: that was all
                    message = b""
            found[1](message)


def _open(groups: int, netfilter_groups: int) -> list[socket.socket]:
    opened: list[socket.socket] = []
    try:
        for protocol, wanted in ((socket.NETLINK_ROUTE, groups),
                                 (_NETLINK_NETFILTER, netfilter_groups)):
            if not wanted:
                continue
            try:
                made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC
                                     | socket.SOCK_NONBLOCK, protocol)
            except OSError as error:
                if error.errno == errno.EPROTONOSUPPORT:
                    continue  # this kernel has no nfnetlink, so nobody has rules
                raise
            opened.append(made)
            made.bind((0, wanted))
    except OSError as error:
        for each in opened:
            each.close()
        raise LinkError(f"watch a network namespace: {error}") from error
    return opened


_REMOVALS: Final = (17, 37, 45)  # RTM_DELLINK, RTM_DELQDISC, RTM_DELTFILTER


def _removed(data: bytes) -> set[int]:
    found = set()
    at = 0
    while at + _IFINDEX_AT + 4 <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind in _REMOVALS:
            found.add(int(struct.unpack_from("=i", data, at + _IFINDEX_AT)[0]))
        if length < _HEADER.size:
            break
        at += (length + 3) & ~3
    return found
