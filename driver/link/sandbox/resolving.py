"""Prepares a sandbox for slim's name server: its sockets, and the hook that queries come by.

kernel/resolve.c says how.  A sandbox that is not told of the end keeps the hook, which then does
nothing.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from driver.errors import LinkError
from driver.link.netlink import filters
from driver.link.netlink import netns as namespaces
from driver.link.netlink.names import NAME_SERVER, NAMES_FILTER_NAME, NAMES_MARK, NAMES_PORT
from driver.link.netlink.netns import same_path

DNS_PORT: Final = 53
QUEUE: Final = 16  # TCP connections that wait to be accepted
_LO: Final = 1  # ifindex of lo in every namespace
_SO_MARK: Final = 36
# linux/rtnetlink.h, linux/if_link.h, linux/ip.h; pyroute2 cannot encode these.
_RTM_SETLINK, _REQUEST, _ACK, _ERROR, _NESTED = 19, 0x1, 0x4, 2, 0x8000
_IFLA_AF_SPEC, _IFLA_INET_CONF, _ACCEPT_LOCAL, _ROUTE_LOCALNET = 26, 1, 23, 26


@dataclass(frozen=True)
class NameSockets:
    """The sockets of one sandbox; none blocks."""

    udp: socket.socket  # queries of its programs
    tcp: socket.socket  # listening
    # Each opens a connected socket to Docker's name server.  Errors: LinkError, OSError.
    ask: Callable[[], socket.socket]  # for datagrams
    connect: Callable[[], socket.socket]  # a TCP connection, which may be under way still

    def close(self) -> None:
        """Close those that are open from the beginning."""
        self.udp.close()
        self.tcp.close()


class Resolving:
    """Opens sandboxes' sockets, and sets the hook.  Thread-safe."""

    def __init__(self, program_fd: int, path_of: Callable[[str], str] = same_path) -> None:
        """program_fd: name_query.  path_of: see KernelSandboxes."""
        self._program_fd = program_fd
        self._path_of = path_of

    def open(self, sandbox_key: str) -> NameSockets:
        """Prepare a sandbox.  Error: LinkError, also if a program there uses our port."""
        path = self._path_of(sandbox_key)

        def towards_dockers(kind: int) -> socket.socket:
            opened = namespaces.run_in(path, lambda: _opened(kind, marked=True), refuse_own=True)
            opened.connect_ex((NAME_SERVER, DNS_PORT))
            return opened

        def inside() -> NameSockets:
            with ExitStack() as undo:
                udp, tcp = (undo.enter_context(_opened(kind, marked=False))
                            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    for each in (udp, tcp):
                        each.bind((NAME_SERVER, NAMES_PORT))
                    tcp.listen(QUEUE)
                except OSError as error:
                    # One of an earlier driver would hand queries to whoever has the port.
                    filters.detach_ingress(_LO, remove_qdisc=True)
                    raise LinkError(f"{NAME_SERVER} port {NAMES_PORT} in sandbox {sandbox_key}: "
                                    f"{error.strerror}") from error
                _let_lo_take_what_it_sent(1)
                filters.attach_ingress(_LO, self._program_fd, NAMES_FILTER_NAME)
                undo.pop_all()
                return NameSockets(udp, tcp, partial(towards_dockers, socket.SOCK_DGRAM),
                                   partial(towards_dockers, socket.SOCK_STREAM))

        return namespaces.run_in(path, inside, refuse_own=True)

    def remove(self, sandbox_key: str) -> None:
        """Remove the hook.  Idempotent; a namespace that is gone has taken it along."""
        def inside() -> None:
            filters.detach_ingress(_LO, remove_qdisc=True)
            _let_lo_take_what_it_sent(0)

        try:
            namespaces.run_in(self._path_of(sandbox_key), inside, refuse_own=True)
        except namespaces.NamespaceAbsent:
            return


def _opened(kind: int, *, marked: bool) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if marked:
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, NAMES_MARK)
    return opened


def _let_lo_take_what_it_sent(value: int) -> None:
    """Let lo route what the hook redirects, from and to addresses of this namespace (0: not).

    Nothing else comes in by lo.  By netlink: a managed plugin's /proc/sys cannot be written.
    """
    conf = _attribute(_ACCEPT_LOCAL, struct.pack("=I", value)) + _attribute(
        _ROUTE_LOCALNET, struct.pack("=I", value))
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, _LO, 0, 0) + _attribute(
        _IFLA_AF_SPEC | _NESTED, _attribute(socket.AF_INET | _NESTED, _attribute(
            _IFLA_INET_CONF | _NESTED, conf)))
    header = struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _REQUEST | _ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as route:
        route.send(header + body)
        answer = route.recv(4096)
    kind, = struct.unpack_from("=H", answer, 4)
    failed, = struct.unpack_from("=i", answer, 16)
    if kind != _ERROR or failed:
        raise LinkError(f"settings of lo: {errno.errorcode.get(-failed, str(-failed))}")


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)
