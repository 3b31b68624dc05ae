"""Receives and prints datagrams, or sends one.  Runs in a container.

    udp.py listen PORT           prints "<source address> <text>" for each datagram
    udp.py send ADDRESS PORT TEXT
"""

import socket
import sys


def main() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if sys.argv[1] == "send":
        sock.sendto(sys.argv[4].encode(), (sys.argv[2], int(sys.argv[3])))
        return
    sock.bind(("", int(sys.argv[2])))
    print("listening", flush=True)
    while True:
        text, source = sock.recvfrom(2048)
        print(source[0], text.decode(), flush=True)


main()
