"""Opens nftables' netlink sockets, commits transactions and asks what is there.

All of it works in the calling thread's namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pyroute2.netlink import NETLINK_NETFILTER
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from driver.errors import LinkError
from driver.link.netlink import nft

_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_...
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER, _ANSWER_MAX = 16, 65536  # bytes: struct nlmsghdr, what is read at once
_SO_SNDBUFFORCE: Final = 32
_BUFFER_MIN: Final = 1 << 16  # bytes
_LACKING: Final = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)  # nfnetlink, nf_tables


def batch(messages: Sequence[nft.Message]) -> bytes:
    """Return an encoded transaction (2 ms for ten messages); it can be committed many times."""
    return b"".join(map(encode, [nft.bracket(_BEGIN), *messages, nft.bracket(_END)]))


def encode(message: nft.Message) -> bytes:
    """Return one message as bytes, as it is sent."""
    message.encode()
    return bytes(message.data)


class Refused(LinkError):
    """The kernel has refused a request."""

    def __init__(self, what: str, code: int) -> None:
        """what: begins the error's text.  code: errno."""
        hint = "; this kernel lacks nf_tables" if code in _LACKING else ""
        super().__init__(f"{what}: {os.strerror(code)} (errno {code}){hint}")
        self.code = code


def commit(transaction: bytes, what: str) -> None:
    """Commit all of it or nothing, in the calling thread's namespace (0.2 ms).  Error: Refused.

    transaction: from `batch`.  what: begins the text of errors.
    """
    with _socket(what) as socket_:
        # The kernel takes no message larger than this buffer; CAP_NET_ADMIN may set any size.
        socket_.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE,
                           max(_BUFFER_MIN, len(transaction) + _BUFFER_MIN))
        socket_.send(transaction)
        codes = list(_codes(socket_))
    if not codes or any(codes):
        raise Refused(what, next(filter(None, codes), errno.EPROTO))


def _codes(socket_: socket.socket) -> Iterator[int]:
    """Yield an errno per message, or one for all; 0: done.  The kernel has answered already."""
    while True:
        try:
            answer = socket_.recv(_ANSWER_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        yield -struct.unpack_from("=i", answer, _HEADER)[0]  # an NLMSG_ERROR each


def answers(question: bytes, what: str) -> bytes:
    """Return the kernel's answer, not decoded: decoding would take longer than the request.

    question: an encoded message with verb "get".  Error: Refused.
    """
    whole = b""
    with _socket(what) as socket_:
        socket_.send(question)
        while True:
            part = socket_.recv(_ANSWER_MAX)
            whole += part
            while part:
                length, kind = struct.unpack_from("=IH", part)
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    return whole
                part = part[(length + 3) & ~3:]


@contextmanager
def _socket(what: str) -> Iterator[socket.socket]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                           NETLINK_NETFILTER) as socket_:
            yield socket_
    except OSError as error:
        raise Refused(what, error.errno or errno.EIO) from error


def remove_table(name: str, what: str, family: int = socket.AF_INET) -> None:
    """Remove the table.  Does nothing without the table or without nf_tables.  Error: Refused."""
    try:
        commit(batch(nft.of_family(family, [nft.table("del", name)])), what)
    except Refused as error:
        if error.code not in (errno.ENOENT, *_LACKING):
            raise


@contextmanager
def opened(what: str) -> Iterator[Any]:
    """Open a socket for requests in the calling thread's namespace.  Error: LinkError.

    what: begins the text of errors.
    """
    try:
        with NFTables(nfgen_family=socket.AF_INET) as socket_:
            yield socket_
    except NetlinkError as error:
        raise Refused(what, error.code) from error
    except OSError as error:
        raise Refused(what, error.errno or errno.EIO) from error
