"""Tests the host path with real sockets: two machines, plain programs, transfers, many at once."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

import pytest

from tests.netns.talk import (
    best_path,
    client,
    counted,
    host_path,
    run,
    server,
    started,
    wait_for_no_flows,
)
from tests.support.world.machines import VXLAN_PORT, Cluster, Container, Machine

Pair = tuple[Container, Container]


def test_programs_see_virtual_addresses_only(pair: Pair) -> None:
    here, there = pair
    seen = server(there)
    with best_path(here, there):
        own = client(here, there.address).split()
    assert own[0] == here.address
    assert own[2:] == [there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]


def test_flows_are_released(pair: Pair) -> None:
    here, there = pair
    server(there)
    with best_path(here, there, connections=3):
        for _ in range(3):
            client(here, there.address)
    wait_for_no_flows(here, there)


def test_a_connection_reset_by_either_side_releases_its_flow(pair: Pair) -> None:
    here, there = pair
    started(there, """
        def handle(c):
            if exactly(c, 1) == b"r":
                reset_on_close(c)
            else:
                c.recv(1)
            c.close()
        serve(listen("0.0.0.0", 80), handle)
    """)
    with best_path(here, there, connections=2):
        assert run(here, """
            c = connected(sys.argv[1], 80)
            c.sendall(b"r")
            print(error_of(lambda: c.recv(1)))
            c = connected(sys.argv[1], 80)
            c.sendall(b"x")
            reset_on_close(c)
            c.close()
        """, there.address) == "ECONNRESET"
        wait_for_no_flows(here, there)


def test_100_megabytes_both_ways_arrive_unchanged(pair: Pair) -> None:
    here, there = pair
    # Both sides send 100 MB at the same time, and then tell the other what it should have received.
    exchange = """
        import hashlib
        SIZE = 100_000_000
        block = os.urandom(1_000_000)
        def exchange(c):
            sent, got = hashlib.sha256(), hashlib.sha256()
            def send():
                for i in range(SIZE // len(block)):
                    part = struct.pack("!Q", i) + block[8:]
                    sent.update(part)
                    c.sendall(part)
            sender = threading.Thread(target=send)
            sender.start()
            left = SIZE
            while left:
                part = c.recv(min(left, 1 << 18))
                assert part, "closed early"
                got.update(part)
                left -= len(part)
            sender.join()
            c.sendall(sent.digest())
            assert exactly(c, 32) == got.digest()
            print("same", flush=True)
    """
    serving = started(there, exchange + """
        serve(listen("0.0.0.0", 80), exchange)
    """)
    with best_path(here, there):
        assert run(here, exchange + """
        exchange(connected(sys.argv[1], 80, timeout_s=60))
        """, there.address) == "same"
        serving.line()
        assert serving.line() == "same"


def test_thousands_of_connections_at_once(pair: Pair) -> None:
    here, there = pair
    number = 2200
    started(there, """
        import resource, select
        resource.setrlimit(resource.RLIMIT_NOFILE, (8000, 8000))
        server, poll, all = listen("0.0.0.0", 80, backlog=4096), select.epoll(), {}
        poll.register(server, select.EPOLLIN)
        ready()
        while True:
            for fd, _ in poll.poll():
                if fd == server.fileno():
                    c, _ = server.accept()
                    all[c.fileno()] = c
                    poll.register(c, select.EPOLLIN)
                elif data := all[fd].recv(100):
                    all[fd].sendall(data)
                else:
                    del all[fd]
    """)
    # An ACK may wait in a queue while its socket closes on another CPU.  It then comes after the
    # end of its flow and is dropped; nobody needs it.
    with best_path(here, there, connections=number, also={"late_ack"}):
        assert run(here, """
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (8000, 8000))
            all = [connected(sys.argv[1], 80) for _ in range(int(sys.argv[2]))]
            for i, c in enumerate(all):
                c.sendall(b"%06d" % i)
            print(sum(exactly(c, 6) == b"%06d" % i for i, c in enumerate(all)),
                  len({c.getsockname()[1] for c in all}))
        """, there.address, number, timeout=120) == f"{number} {number}"
    wait_for_no_flows(here, there)


def test_the_wire_carries_plain_tcp_and_nothing_else(
        machines: list[Machine], cluster: Cluster) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[1].container("10.32.0.3/16")
    server(there)

    def tap() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("p1", 0))
        raw.setblocking(False)
        return raw

    with cluster.wire.call(tap) as raw:
        with host_path(here, there):
            client(here, there.address)
            wait_for_no_flows(here, there)
        frames = _drain(raw)
        assert len(frames) >= 8  # SYN, SYN-ACK, ACK, data and its answer, FINs, last ACK
        for protocol, addresses, _ in frames:
            assert protocol == socket.IPPROTO_TCP
            assert addresses == {machines[0].underlay, machines[1].underlay}
        with counted(here, there) as total:  # shows that the tap would have seen it:
            here.run("ping", "-c1", "-W2", there.address)
        assert total["overlay_sent"] == 2
        assert [(protocol, port) for protocol, _, port in _drain(raw)] == [
            (socket.IPPROTO_UDP, VXLAN_PORT)] * 2


def _drain(raw: socket.socket) -> list[tuple[int, set[IPv4Address], int]]:
    """Return protocol, addresses and destination port of each IPv4 packet seen."""
    frames = []
    while True:
        try:
            frame = raw.recv(100)
        except BlockingIOError:
            return frames
        if frame[12:14] == b"\x08\x00":
            frames.append((frame[23], {IPv4Address(frame[26:30]), IPv4Address(frame[30:34])},
                           struct.unpack("!H", frame[36:38])[0]))


@pytest.mark.parametrize("family", ["4", "mapped"])
def test_a_container_reaches_itself_without_the_host_path(
        machines: list[Machine], family: str) -> None:
    here = machines[0].container("10.32.0.2/16")
    server(here, address="::" if family == "mapped" else "0.0.0.0")
    with counted(here) as total:
        client(here, ("::ffff:" if family == "mapped" else "") + here.address)
    assert not total
