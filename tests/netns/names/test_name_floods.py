"""Tests that a container that floods the name server keeps nobody else's query from its answer.

Each flood goes on until another container has had many answers, all of them right.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.names.resolver import Resolver
from driver.services.names.table import NameTable
from driver.services.ports import NameReply, NamesView, Question
from tests.netns.names.neighbours import SILENT, WAIT_S, Lent, Neighbours, lent_by
from tests.netns.talk import Program, start
from tests.support.fakes.ports import FakeListener
from tests.support.faults.dns_messages import PTR, A, costly, query, question
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster

ENDPOINTS = 10_000
ANSWERS = 150
NETWORK, VNI = NetworkId("n" * 64), Vni(7)

# Sends a datagram again and again, hundreds with one system call; prints how many when asked.
DATAGRAMS = """
    import ctypes, time

    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

    class Message(ctypes.Structure):
        _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint),
                    ("pieces", ctypes.POINTER(Piece)), ("count", ctypes.c_size_t),
                    ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                    ("flags", ctypes.c_int), ("sent", ctypes.c_uint)]

    data, many, sent, errors = bytes.fromhex(sys.stdin.readline()), 512, 0, 0
    piece = Piece(data, len(data))
    messages = (Message * many)(*(Message(pieces=ctypes.pointer(piece), count=1)
                                  for _ in range(many)))
    sendmmsg = ctypes.CDLL(None).sendmmsg

    def flood(one):
        global sent
        while True:
            sent += max(0, sendmmsg(one.fileno(), messages, many, 0))

    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it reads nothing
    one.connect(("127.0.0.11", 53))
    began = time.monotonic()
    threading.Thread(target=flood, args=(one,), daemon=True).start()
    for _ in sys.stdin:
        print(sent, time.monotonic() - began, flush=True)
"""
# Keeps connections busy, or opens and closes them; prints how many pieces it has sent.
CONNECTIONS = """
    import time

    sent = 0
    data = bytes.fromhex(sys.stdin.readline())

    def flood():
        global sent
        while True:
            with socket.socket() as one, suppress(OSError):
                one.connect(("127.0.0.11", 53))
                sent += 1
                while data:
                    one.sendall(data)
                    sent += 1

    began = time.monotonic()
    for _ in range(int(sys.argv[1])):
        threading.Thread(target=flood, daemon=True).start()
    for _ in sys.stdin:
        print(sent, time.monotonic() - began, flush=True)
"""


def endpoint(number: int) -> Endpoint:
    """Return the endpoint with 10.40.0.0 + number; every tenth has an alias."""
    return Endpoint(
        id=EndpointId(f"{number:064x}"), network_id=NETWORK, vni=VNI, host=HostId("a" * 32),
        underlay=IPv4Address("198.18.0.1"), mac=bytes(6), port=0, address6=None,
        address=IPv4Interface(f"{IPv4Address('10.40.0.0') + number}/16"),
        names=(f"c{number}", "task")[:1 if number % 10 else 2])


@pytest.fixture(scope="module")
def all_tests(cluster: Cluster) -> Iterator[Lent]:
    table = NameTable(FakeListener(), lambda _vni, _id: True)
    for number in range(1, ENDPOINTS + 1):
        table.put(endpoint(number))
    resolver = Resolver(table, lambda: NamesView((), {NETWORK: "app"}, {}))

    def resolve(key: str, asked: Question) -> NameReply | None:
        resolver.enter(key, [endpoint(1)])
        return resolver.resolve(key, asked)

    with lent_by(cluster, resolve) as made:
        yield made


def is_well_during(neighbours: Neighbours, flood: Program, data: bytes) -> None:
    def sent() -> tuple[int, float]:
        count, seconds = flood.ask().split()
        return int(count), float(seconds)

    flood.say(data.hex())
    wait_until(lambda: sent()[0] > 0, WAIT_S, "the flood begins")
    neighbours.more_is_asked(ANSWERS)
    count, seconds = sent()
    flood.end()
    said = neighbours.is_well()
    print(f"\n{count / seconds:,.0f} a second of {len(data)} bytes; {said}")


KINDS = {
    "names of ours": query(), "names that Docker's knows not": query(question(b"\3far\0")),
    "names without an answer": query(question(SILENT + b"\0")),
    "addresses": query(question(b"\0010\0010\00240\00210\x07in-addr\4arpa\0", PTR)),
    "a name of a thousand": query(question(b"\4task\0", A)),
    "no question": query(b"\xff"), "large ones": query() + bytes(60_000),
    "slow to read": costly(512)["questions with a long name"]}


@pytest.mark.parametrize("kind", KINDS)
def test_datagrams(neighbours: Neighbours, kind: str) -> None:
    is_well_during(neighbours, start(neighbours.hostile, DATAGRAMS), KINDS[kind])


@pytest.mark.parametrize("data", [
    b"", b"\0", (len(query()).to_bytes(2, "big") + query()) * 200], ids=[
    "none", "a byte", "queries"])
def test_connections(neighbours: Neighbours, data: bytes) -> None:
    is_well_during(neighbours, start(neighbours.hostile, CONNECTIONS, 20), data)
