"""Talks to a server without a pause, and reports in the end what it noticed.  Runs in a container.

    steady.py ADDRESS PORT     one connection kept busy, a new one every 20 ms, until SIGTERM

Prints a line for each 10 new connections, and at the end a report as JSON.  The server is
tcp.py, which reports what it sees of a connection and then echoes.
"""

import json
import signal
import socket
import struct
import sys
import threading
import time

PAUSE_S = 0.02
TIMEOUT_S = 20
_TCPI_TOTAL_RETRANS_AT = 100  # of struct tcp_info (linux/tcp.h), u32


class Report:
    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.rounds = self.made = self.retransmitted = 0
        self.longest_gap_s = 0.0
        self.failures: list[str] = []


def connect(address: str, port: int) -> tuple[socket.socket, list[object]]:
    """Return the connection, and the peer that the server sees."""
    sock = socket.create_connection((address, port), TIMEOUT_S)
    line = b""
    while not line.endswith(b"\n"):
        piece = sock.recv(4096)
        if not piece:
            raise ConnectionError("closed before the first line")
        line += piece
    seen = json.loads(line)
    if seen["peer"] != list(sock.getsockname()) or seen["local"] != list(sock.getpeername()):
        raise ConnectionError(f"names differ: {seen}, {sock.getsockname()}, {sock.getpeername()}")
    return sock, seen["peer"]


def keep_busy(sock: socket.socket, report: Report) -> None:
    try:
        while not report.stopping.is_set():
            text = b"%08d" % report.rounds
            before_s = time.monotonic()
            sock.sendall(text)
            echo = b""
            while len(echo) < len(text):
                piece = sock.recv(len(text) - len(echo))
                if not piece:
                    raise ConnectionError("closed by the peer")
                echo += piece
            if echo != text:
                raise ConnectionError(f"sent {text!r}, got {echo!r}")
            report.longest_gap_s = max(report.longest_gap_s, time.monotonic() - before_s)
            report.rounds += 1
            report.stopping.wait(0.001)
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        report.retransmitted = struct.unpack_from("=I", info, _TCPI_TOTAL_RETRANS_AT)[0]
    except OSError as error:
        report.failures.append(f"open connection, after {report.rounds} rounds: {error}")


def make_new(address: str, port: int, report: Report) -> None:
    while not report.stopping.is_set():
        try:
            connect(address, port)[0].close()
        except OSError as error:
            report.failures.append(f"new connection {report.made}: {error}")
        report.made += 1
        if report.made % 10 == 0:
            print(report.made, flush=True)
        report.stopping.wait(PAUSE_S)


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    report = Report()
    signal.signal(signal.SIGTERM, lambda *_: report.stopping.set())
    for _ in range(200):
        try:
            sock, _ = connect(address, port)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    else:
        sys.exit("always refused")
    threads = [threading.Thread(target=keep_busy, args=(sock, report)),
               threading.Thread(target=make_new, args=(address, port, report))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"rounds": report.rounds, "made": report.made,
                      "retransmitted": report.retransmitted,
                      "longest_gap_s": round(report.longest_gap_s, 3),
                      "failures": report.failures}), flush=True)


if __name__ == "__main__":
    main()
