"""Forges frames with scapy, and provides the connections that they must not break.

Frames bypass every check of the sender's kernel, as those of a container with CAP_NET_RAW do.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from driver.model import Endpoint
from tests.netns.talk import Program, refuser, start, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import VXLAN_PORT, Container
from tests.support.world.netns import Netns

OPTION_KIND, EXPERIMENT, EXPERIMENT6 = 254, 0x5e1d, 0x5e16

# Prints nothing of its connections, and ignores their errors.
_SERVE = """
    server = listen("0.0.0.0", int(sys.argv[1]))
    ready()
    while True:
        threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
"""
_ASK = """
    if len(sys.argv) > 3:
        c = connected_after_a_refusal(sys.argv[3], sys.argv[1], int(sys.argv[2]), timeout_s=20)
    else:
        c = connected(sys.argv[1], int(sys.argv[2]), timeout_s=20)
    assert asked(c) == b"hello"
    print(c.getsockname()[1], flush=True)
    for line in sys.stdin:
        print(asked(c, line.encode()) == line.encode(), flush=True)
"""


def endpoint(container: Container) -> Endpoint:
    """The container's first endpoint."""
    return container.endpoints[0][0]


def frame(packet: Packet, *, destination: str = "ff:ff:ff:ff:ff:ff") -> Packet:
    """Put an IP packet into an Ethernet frame."""
    return Ether(src="02:00:00:00:00:01", dst=destination) / packet


def syn_option(virtual_port: int, caller_port: int) -> list[tuple[int, bytes]]:
    """Return the host path's option in the form of scapy's TCP."""
    value = b"".join(n.to_bytes(2, "big") for n in (EXPERIMENT, virtual_port, caller_port))
    return [(OPTION_KIND, value)]


def segment(source: str, sport: int, destination: str, dport: int,  # noqa: PLR0917
            flags: str = "S", data: bytes = b"", **fields: object) -> Packet:
    """Make a TCP segment; `fields` are scapy's: options, seq, ack, window."""
    made = IP(src=source, dst=destination) / TCP(sport=sport, dport=dport, flags=flags, **fields)
    return made / Raw(data) if data else made


def vxlan(vni: int, inner: Packet, *, source: str = "", destination: str = "",
          sport: int = 40000) -> Packet:
    """Make an overlay packet, with an outer IP header if there is a destination."""
    body = VXLAN(flags=8, vni=vni) / (inner if inner.haslayer(Ether) else frame(inner))
    outer = UDP(sport=sport, dport=VXLAN_PORT, chksum=0) / body
    return IP(src=source, dst=destination) / outer if destination else body


def send(where: Container | Netns, frames: Packet | Iterable[Packet | bytes], *,
         interface: str = "eth0") -> None:
    """Send frames by an interface; IP packets get an Ethernet header, bytes do not."""
    namespace = where.netns if isinstance(where, Container) else where
    packets = [frames] if isinstance(frames, Packet) else list(frames)
    data = [p if isinstance(p, bytes | Ether) else frame(p) for p in packets]

    def put() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((interface, 0))
            for each in data:
                raw.send(bytes(each))

    namespace.call(put)


def mac(namespace: Netns, interface: str = "eth0") -> str:
    """Return an interface's MAC, with colons."""
    return namespace.ip(f"-o link show {interface}").split("link/ether ")[1].split()[0]


@dataclass
class Victim:
    """A connection between two containers that must survive the attack."""

    here: Container
    there: Container
    program: Program
    port: int  # of the client

    def lives(self) -> bool:
        """Exchange a line over it; a test may ask any number of times."""
        self.program.say("still here?")
        return self.program.line() == "True"


def quiet_server(there: Container, port: int = 80) -> Program:
    """Start an echo server that prints nothing."""
    return started(there, _SERVE, port)


def victim(here: Container, there: Container, port: int = 80) -> Victim:
    """Serve in `there`, connect from `here`, keep it open."""
    quiet_server(there, port)
    return connected_victim(here, there, port)


def connected_victim(here: Container, there: Container, port: int = 80) -> Victim:
    """Do as victim() for a server that runs already; the host path serves on one host, too."""
    one_host = [refuser(here)] if here.machine is there.machine else []
    program = start(here, _ASK, there.address, port, *one_host)
    return Victim(here, there, program, int(program.line()))


class Tap:
    """Keeps all frames that arrive at a container's interface, but for IPv6's own noise."""

    def __init__(self, container: Container, interface: str = "eth0") -> None:
        def listen() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            raw.bind((interface, 0))
            raw.setblocking(False)
            return raw

        self._raw = container.netns.call(listen)
        container.machine.stack.callback(self._raw.close)
        self._seen: list[Packet] = []

    def frames(self) -> list[Packet]:
        """Return all frames so far."""
        while True:
            try:
                data, (_, _, kind, *_) = self._raw.recvfrom(65535)
            except BlockingIOError:
                return self._seen
            if kind != socket.PACKET_OUTGOING and data[12:14] != b"\x86\xdd":
                self._seen.append(Ether(data))

    def wait_for(self, count: int = 1) -> list[Packet]:
        """Wait until so many frames have come."""
        wait_until(lambda: len(self.frames()) >= count, 30, f"{count} frames")
        return self._seen
