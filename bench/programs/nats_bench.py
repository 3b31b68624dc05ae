"""Measures a NATS server, with one publisher and one subscriber in one loop.

nats_bench.py HOST PORT SECONDS BYTES prints {"messages", "seconds"}.  Only messages that reached
the subscriber count.  The publisher is never far ahead: a server drops subscribers that are too
slow.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from io import BufferedReader

AHEAD = 2000  # messages
BATCH = 50


def dial(host: str, port: int) -> tuple[socket.socket, BufferedReader]:
    """Connect, and do no more than exchange greetings."""
    sock = socket.create_connection((host, port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = sock.makefile("rb")
    lines.readline()  # INFO
    sock.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
    while lines.readline() != b"PONG\r\n":
        pass
    return sock, lines


def main() -> None:
    """Publish until the time is over, then wait for the last message."""
    host, port, seconds, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    receiver, lines = dial(host, port)
    receiver.sendall(b"SUB bench 1\r\nPING\r\n")
    while lines.readline() != b"PONG\r\n":
        pass
    sender, _ = dial(host, port)
    payload = b"x" * size + b"\r\n"
    batch = (b"PUB bench %d\r\n" % size + payload) * BATCH
    each = len(b"MSG bench 1 %d\r\n" % size + payload)
    begin = time.monotonic()
    sent = got = 0
    while True:
        publishing = time.monotonic() - begin < seconds
        if not publishing and got >= sent * each:
            break
        may_send = publishing and sent - got // each < AHEAD
        readable, writable, _ = select.select([receiver], [sender] if may_send else [], [], 10)
        if not readable and not writable:
            sys.exit("nats_bench: messages were lost")
        if writable:
            sender.sendall(batch)
            sent += BATCH
        if readable:
            piece = receiver.recv(1 << 18)
            if not piece:
                sys.exit("nats_bench: the server closed the connection")
            got += len(piece)
    took = time.monotonic() - begin
    print(json.dumps({"messages": sent, "seconds": took}))


if __name__ == "__main__":
    main()
