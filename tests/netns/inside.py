"""Provides sockets' helpers for test programs inside containers, which import it by its folder.

Tests do not import it: a program prints what it has seen, and the test compares.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

MPTCP = 262
TCP_USER_TIMEOUT = 18


def listen(address: str, port: int, *, family: int = socket.AF_INET, protocol: int = 0,
           reuse_port: bool = False, backlog: int = 1024) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM, protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6 and address == "::":
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if reuse_port:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((address, port))
    server.listen(backlog)
    return server


MD5SIG, AO_ADD_KEY = 14, 38  # options of TCP


def set_key(one: socket.socket, peer: str, key: bytes, *, length: int | None = None) -> None:
    """Set a TCP-MD5 key for packets to and from `peer`; `length` 0 removes it."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    address = (struct.pack("=HHI16s", family, 0, 0, socket.inet_pton(family, peer))
               if family == socket.AF_INET6 else
               struct.pack("=HH4s", family, 0, socket.inet_aton(peer)))
    one.setsockopt(socket.IPPROTO_TCP, MD5SIG, address.ljust(128, b"\0") + struct.pack(
        "=BBHi80s", 0, 0, len(key) if length is None else length, 0, key))


def keyed(address: str, port: int, key: bytes, *, wait_ms: int = 1000) -> socket.socket:
    """Connect with a key (empty: none), giving up after `wait_ms`."""
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, wait_ms)
    if key:
        set_key(client, address, key)
    client.connect((address, port))
    return client


def tcp_count(name: str) -> int:
    """Return one of this namespace's counters in /proc/net/netstat."""
    with open("/proc/self/net/netstat") as table:
        heads, values = [line.split() for line in table if line.startswith("TcpExt")]
    return int(dict(zip(heads, values, strict=True))[name])


def ready() -> None:
    print("ready", flush=True)


def names(connected: socket.socket) -> str:
    """Return own address and port, peer's address and port."""
    own, peer = connected.getsockname(), connected.getpeername()
    return f"{own[0]} {own[1]} {peer[0]} {peer[1]}"


def echo(connected: socket.socket) -> None:
    """Send everything back until the peer has closed, then close."""
    with connected, suppress(ConnectionResetError, BrokenPipeError):
        while data := connected.recv(1 << 16):
            connected.sendall(data)


def serve(server: socket.socket, handle: Callable[[socket.socket], None] = echo,
          *, tell: str = "") -> None:
    """Accept forever, a thread each; print `tell` (if any) and each connection's names."""
    ready()
    while True:
        connection, peer = server.accept()
        assert peer == connection.getpeername(), (peer, connection.getpeername())
        print(tell, names(connection), flush=True)
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def connected(address: str, port: int, *, bind: tuple[str, int] | None = None,
              family: int = socket.AF_INET, protocol: int = 0, timeout_s: float = 20
              ) -> socket.socket:
    client = socket.socket(family, socket.SOCK_STREAM, protocol)
    client.settimeout(timeout_s)
    if bind is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(bind)
    client.connect((address, port))
    return client


def connected_after_a_refusal(refuser: str, address: str, port: int, *, timeout_s: float = 20
                              ) -> socket.socket:
    """Connect a socket that the host path has refused once: it stays bound to the host."""
    client = socket.socket()  # blocking: else the second connect() fails, too
    assert error_of(lambda: client.connect((refuser, 1))) == "ECONNREFUSED"
    client.connect((address, port))
    client.settimeout(timeout_s)
    return client


def asked(client: socket.socket, data: bytes = b"hello") -> bytes:
    """Send, and read an answer of the same length."""
    client.sendall(data)
    answer = exactly(client, len(data))
    with suppress(OSError):  # send its ACK now, so that no tap sees it later
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return answer


def exactly(client: socket.socket, count: int) -> bytes:
    answer = b""
    while len(answer) < count:
        part = client.recv(count - len(answer))
        if not part:
            break
        answer += part
    return answer


def sockets_in_last_ack(port: int) -> int:
    """Count this namespace's TCP sockets at the local port in state LAST_ACK."""
    with open("/proc/self/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "09" for row in rows)


def reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def error_of(call: Callable[[], object]) -> str:
    """Return the name of the call's errno, "timeout", or "none"."""
    import errno
    try:
        call()
    except TimeoutError as error:
        return errno.errorcode[error.errno] if error.errno else "timeout"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "none"


# Raw packets.


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ip4(source: str, destination: str, protocol: int, payload: bytes, *, flags: int = 0x4000
        ) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, flags, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(destination))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def tcp(source: str, sport: int, destination: str, dport: int, *, flags: int = 2,
        options: bytes = b"", sequence: int = 1000, ack: int = 0, data: bytes = b"") -> bytes:
    """Make a TCP segment in IPv4; flags 2: SYN, 16: ACK, 4: RST."""
    assert len(options) % 4 == 0
    length = 20 + len(options) + len(data)
    head = struct.pack("!HHIIBBHHH", sport, dport, sequence, ack, (20 + len(options)) // 4 << 4,
                       flags, 65535, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6,
                                                                                    length)
    total = checksum(pseudo + head + options + data)
    return ip4(source, destination, 6, head[:16] + struct.pack("!HH", total, 0) + options + data)


def udp(source: str, sport: int, destination: str, dport: int, data: bytes) -> bytes:
    return ip4(source, destination, 17,
               struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data)


def option(virtual_port: int, caller_port: int, *, kind: int = 254, experiment: int = 0x5e1d
           ) -> bytes:
    """Make the host path's SYN option."""
    return struct.pack("!BBHHH", kind, 8, experiment, virtual_port, caller_port)


def send_frame(payload: bytes, *, kind: int = 0x0800, interface: str = "eth0",
               destination: bytes = b"\xff" * 6) -> None:
    """Send one Ethernet frame by the interface, past every check of the IP stack."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        raw.send(destination + b"\x02\0\0\0\0\1" + struct.pack("!H", kind) + payload)


def send_ip(packet: bytes) -> None:
    """Send an IPv4 packet as the namespace's root; the kernel routes it as usual."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))


__all__ = [name for name in globals() if not name.startswith("_") and name != "annotations"]
assert os
assert sys
