"""Runs a TCP server or client that reports what it sees of a connection.  Runs in a container.

    tcp.py serve PORT [ADDRESS]          a thread for each connection; sends its view, then echoes
    tcp.py call ADDRESS PORT [options]   prints both views as JSON
"""

import argparse
import json
import socket
import sys
import threading
import time


def view(sock: socket.socket) -> dict[str, list[object]]:
    return {"local": list(sock.getsockname()[:2]), "peer": list(sock.getpeername()[:2])}


def answer(sock: socket.socket) -> None:
    with sock:
        sock.sendall(json.dumps(view(sock)).encode() + b"\n")
        while piece := sock.recv(1 << 16):
            sock.sendall(piece)


def serve(port: int, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family, backlog=512,
                                  dualstack_ipv6=address == "::")
    print("listening", flush=True)
    while True:
        sock, _ = server.accept()
        threading.Thread(target=answer, args=(sock,), daemon=True).start()


def call(args: argparse.Namespace) -> None:
    source = (args.source, args.source_port) if args.source or args.source_port else None
    deadline_s = time.monotonic() + args.retry_s
    while True:
        try:
            sock = socket.create_connection((args.address, args.port), args.timeout_s, source)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
    with sock:
        lines = sock.makefile("rb")
        server = json.loads(lines.readline())
        for number in range(args.rounds):
            text = b"%d" % number * args.size
            sock.sendall(text + b"\n")
            if lines.readline() != text + b"\n":
                sys.exit("the echo differs")
            time.sleep(args.pause_s)
        print(json.dumps({"client": view(sock), "server": server, "rounds": args.rounds}))


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("serve")
    server.add_argument("port", type=int)
    server.add_argument("address", nargs="?", default="0.0.0.0")
    server.set_defaults(run=lambda args: serve(args.port, args.address))
    client = commands.add_parser("call")
    client.add_argument("address")
    client.add_argument("port", type=int)
    client.add_argument("--rounds", type=int, default=10)
    client.add_argument("--size", type=int, default=100, help="times the number is repeated")
    client.add_argument("--pause-s", type=float, default=0)
    client.add_argument("--timeout-s", type=float, default=10)
    client.add_argument("--retry-s", type=float, default=0, help="while refused")
    client.add_argument("--source", default="")
    client.add_argument("--source-port", type=int, default=0)
    client.set_defaults(run=call)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
