"""Prepares a sandbox for slim's name server: its sockets, and the hook that queries come by.

kernel/resolve.c says how.  A sandbox that is not told of the end keeps the hook, which then does
nothing.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
_IFLA_AF_SPEC, _IFLA_INET_CONF = 26, 1
_SETTINGS: Final = {"accept_local": 23, "route_localnet": 26}  # of linux/ip.h


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
        self._changed: dict[str, _Changed] = {}  # by sandbox key

    def open(self, sandbox_key: str) -> NameSockets:
        """Prepare a sandbox.  Error: LinkError, also if a program there uses our port."""
        path = self._path_of(sandbox_key)

        def towards_dockers(kind: int) -> socket.socket:
            opened = namespaces.run_in(path, lambda: _opened(kind, marked=True), refuse_own=True)
            opened.connect_ex((NAME_SERVER, DNS_PORT))
            return opened

        def inside() -> NameSockets:
            with ExitStack() as undo:
                changed = _Changed()
                undo.callback(changed.undo)
                if filters.attached_ingress(_LO) == NAMES_FILTER_NAME:
                    # An earlier driver's: it would hand queries to whoever has the port.
                    changed.filter, changed.qdisc, changed.settings = (
                        True, True, tuple(_SETTINGS))
                udp, tcp = (undo.enter_context(_opened(kind, marked=False))
                            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                for each in (udp, tcp):
                    each.bind((NAME_SERVER, NAMES_PORT))
                tcp.listen(QUEUE)
                if not changed.settings:
                    changed.settings = tuple(each for each in _SETTINGS if not _is_on(each))
                _set(changed.settings, 1)
                changed.qdisc |= filters.attach_ingress(_LO, self._program_fd, NAMES_FILTER_NAME)
                changed.filter = True
                undo.pop_all()
                self._changed[sandbox_key] = changed
                return NameSockets(udp, tcp, partial(towards_dockers, socket.SOCK_DGRAM),
                                   partial(towards_dockers, socket.SOCK_STREAM))

        try:
            return namespaces.run_in(path, inside, refuse_own=True)
        except OSError as error:
            raise LinkError(f"{NAME_SERVER} port {NAMES_PORT} in sandbox {sandbox_key}: "
                            f"{error.strerror}") from error

    def remove(self, sandbox_key: str) -> None:
        """Undo `open`.  Idempotent; a namespace that is gone has taken all along."""
        changed = self._changed.get(sandbox_key)
        if changed is not None:
            with suppress(namespaces.NamespaceAbsent):
                namespaces.run_in(self._path_of(sandbox_key), changed.undo, refuse_own=True)
            self._changed.pop(sandbox_key, None)


@dataclass
class _Changed:
    """What we have changed in a sandbox; the rest is the container's own."""

    filter: bool = False
    qdisc: bool = False
    settings: tuple[str, ...] = ()  # that were off

    def undo(self) -> None:
        """Change it back, in the namespace of the calling thread.  Error: LinkError."""
        if self.filter:
            filters.detach_ingress(_LO, remove_qdisc=self.qdisc)
        _set(self.settings, 0)


def _opened(kind: int, *, marked: bool) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if marked:
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, NAMES_MARK)
    return opened


def _is_on(setting: str) -> bool:
    return Path(f"/proc/sys/net/ipv4/conf/lo/{setting}").read_text().strip() != "0"


def _set(settings: tuple[str, ...], value: int) -> None:
    """Let lo route what the hook redirects, from and to addresses of this namespace (0: not).

    Nothing else comes in by lo.  By netlink: a managed plugin's /proc/sys cannot be written.
    """
    if not settings:
        return
    conf = b"".join(_attribute(_SETTINGS[each], struct.pack("=I", value)) for each in settings)
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
