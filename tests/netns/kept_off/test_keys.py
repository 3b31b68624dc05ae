"""Tests TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925), whose keys are for virtual addresses.

So a container whose programs set a key takes the overlay path, in both directions.
"""

from __future__ import annotations

import pytest

from tests.netns.kept_off.noted import KEYS, noted, told, withheld
from tests.netns.talk import (
    Program,
    client,
    counted,
    host_path,
    overlay,
    run,
    server,
    start,
    started,
)
from tests.support.world.machines import Container, Machine

Pair = tuple[Container, Container]

_CALL = """
    print(error_of(lambda: asked(keyed(sys.argv[1], 80, sys.argv[2].encode()))))
"""
_SERVE = """
    server = listen("0.0.0.0", 80)
    set_key(server, sys.argv[1], sys.argv[2].encode())
    serve(server)
"""


@pytest.fixture
def across(machines: list[Machine]) -> Pair:
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


def keyed_server(there: Container, peer: Container, key: str = "secret") -> Program:
    return started(there, _SERVE, peer.address, key)


def options_of_syns(container: Container) -> Program:
    """Start a program that prints each incoming SYN's source, destination and option kinds."""
    return started(container, """
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        raw.bind(("eth0", 0))
        ready()
        while True:
            packet, where = raw.recvfrom(2000)
            if packet[9] != 6 or packet[33] & 0x12 != 2 or where[2] == 4:
                continue
            rest, kinds = packet[40:20 + (packet[32] >> 4) * 4], []
            while rest and rest[0]:
                kinds.append(rest[0])
                rest = rest[1 if rest[0] == 1 else rest[1]:]
            print(socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), *kinds,
                  flush=True)
    """)


def test_the_same_key_on_both_sides(pair: Pair) -> None:
    here, there = pair
    seen, syns = keyed_server(there, here), options_of_syns(there)
    with told(there), overlay(here, there, because="keys" if here.machine != there.machine
                              else "local"):
        own = run(here, """
            c = keyed(sys.argv[1], 80, b"secret")
            assert asked(c) == b"hello"
            print(names(c))
        """, there.address).split()
    assert [own[0], *own[2:]] == [here.address, there.address, "80"]
    assert seen.line().split() == [there.address, "80", here.address, own[1]]
    source, destination, *kinds = syns.line().split()
    assert (source, destination) == (here.address, there.address)
    assert "19" in kinds  # the signature
    assert (withheld(here), withheld(there)) == ("keys", "keys")
    assert (noted(here), noted(there)) == (KEYS, KEYS)


@pytest.mark.parametrize(("key", "count"), [
    ("wrong", "TCPMD5Failure"), ("", "TCPMD5NotFound")], ids=["a wrong key", "no key"])
def test_a_caller_without_the_servers_key(pair: Pair, key: str, count: str) -> None:
    here, there = pair
    keyed_server(there, here)
    with told(there), counted(here, there) as total:
        assert run(here, _CALL, there.address, key) == "ETIMEDOUT"
    assert run(there, f'print(tcp_count("{count}") > 0)') == "True"  # the kernel has checked it
    assert not set(total) & {"connected", "accepted"}


def test_a_key_that_only_the_caller_has(pair: Pair) -> None:
    here, there = pair
    server(there)
    with counted(here, there) as total:
        assert run(here, _CALL, there.address, "secret") == "ETIMEDOUT"
    assert run(there, 'print(tcp_count("TCPMD5Unexpected") > 0)') == "True"
    assert not set(total) & {"connected", "accepted"}


def test_a_key_for_somebody_else(across: Pair) -> None:
    """A listener's keys matter only to their peers; it serves others as before."""
    here, there = across
    started(there, _SERVE, "10.32.0.9", "secret")
    with told(there), overlay(here, there, because="overlay_only"):
        client(here, there.address)


def test_a_listener_that_is_known_gets_a_key(across: Pair) -> None:
    here, there = across
    program = started(there, """
        server = listen("0.0.0.0", 80)
        def set_it():
            sys.stdin.readline()
            set_key(server, sys.argv[1], b"secret")
            print("set", flush=True)
        threading.Thread(target=set_it, daemon=True).start()
        serve(server)
    """, here.address)
    with host_path(here, there):
        client(here, there.address)
    program.line()
    program.say("set it")
    assert program.line() == "set"
    with told(there):
        assert run(here, _CALL, there.address, "") == "ETIMEDOUT"
        assert run(here, _CALL, there.address, "secret") == "none"


def test_a_key_that_was_set_before_the_host_path(machines: list[Machine]) -> None:
    """A program may set it before the driver has finished, or before the network exists."""
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container()
    keyed_server(there, here)
    machines[1].connect(there, "10.32.0.3/16")
    with counted(here, there) as total:
        assert run(here, _CALL, there.address, "") == "EHOSTUNREACH"
    assert total["syn_withheld"] >= 1
    with told(there):
        assert run(here, _CALL, there.address, "") == "ETIMEDOUT"
        assert run(here, _CALL, there.address, "secret") == "none"


def test_a_connection_of_before_goes_on(across: Pair) -> None:
    here, there = across
    server(there)
    with host_path(here, there, connections=1, also={"overlay_received", "overlay_sent", "keys"}):
        kept = start(here, """
            c = connected(sys.argv[1], 80)
            for _ in sys.stdin:
                print(asked(c).decode(), flush=True)
        """, there.address)
        kept.say("ask")
        assert kept.line() == "hello"
        for container, peer in ((here, there), (there, here)):
            run(container, 'set_key(socket.socket(), sys.argv[1], b"secret")', peer.address)
        kept.say("ask again")
        assert kept.line() == "hello"
        with told(there):
            client(here, there.address)  # a new one takes the overlay path


# A caller whose host does not know of the key yet.

@pytest.mark.parametrize("how", ["blocking", "poll", "mapped"])
def test_a_caller_that_has_not_heard_is_told(across: Pair, how: str) -> None:
    here, there = across
    keyed_server(there, here)
    with counted(here, there) as total:
        assert run(here, """
            import errno, select
            how, address = sys.argv[1:]
            c = socket.socket(socket.AF_INET6 if how == "mapped" else socket.AF_INET)
            if how == "mapped":
                address = "::ffff:" + address
            if how != "poll":
                print(error_of(lambda: c.connect((address, 80))))
            else:
                c.setblocking(False)
                assert c.connect_ex((address, 80)) == errno.EINPROGRESS
                poll = select.poll()
                poll.register(c, select.POLLOUT)
                (_, events), = poll.poll()
                assert events & select.POLLERR
                print(errno.errorcode[c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
        """, how, there.address) == "EHOSTUNREACH"
    # Between hosts on one machine the answer may come while connect() still holds the socket; the
    # kernel then acts on the answer to the next SYN.
    assert total.pop("syn_withheld") in (1, 2)
    assert set(total) <= {"syn_unanswered"}


def test_a_caller_reads_the_error_from_its_queue(across: Pair) -> None:
    """IP_RECVERR tells who sent the error, and its kind."""
    here, there = across
    keyed_server(there, here)
    kind, code, by = run(here, """
        import select
        c = socket.socket()
        c.setsockopt(socket.IPPROTO_IP, 11, 1)
        c.setblocking(False)
        c.connect_ex((sys.argv[1], 80))
        poll = select.poll()
        poll.register(c, select.POLLOUT)
        poll.poll()
        _, more, _, _ = c.recvmsg(100, 500, socket.MSG_ERRQUEUE)
        (level, which, data), = more
        assert (level, which) == (socket.IPPROTO_IP, 11)
        error, origin, kind, code, _, _, _ = struct.unpack("=IBBBBII", data[:16])
        assert (error, origin) == (113, 2)
        print(kind, code, socket.inet_ntoa(data[20:24]))
    """, there.address).split()
    assert (kind, code) == ("3", "13")
    assert by == str(there.machine.underlay)


def test_the_next_attempt_after_the_error_takes_the_overlay(across: Pair) -> None:
    here, there = across
    keyed_server(there, here)
    assert run(here, _CALL, there.address, "") == "EHOSTUNREACH"
    with told(there):  # the caller now has a key, so it takes the overlay path itself
        assert run(here, _CALL, there.address, "secret") == "none"


# What counts as a key, and what does not.

@pytest.mark.parametrize("code", [
    'error_of(lambda: set_key(s, "10.32.0.3", b"", length=0))',
    's.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)',
    'error_of(lambda: s.setsockopt(socket.IPPROTO_TCP, MD5SIG, bytes(100)))',
    'error_of(lambda: set_key(socket.socket(type=socket.SOCK_DGRAM), "10.32.0.3", b"k"))',
    's.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")',
], ids=["a key that is removed", "another option", "too short", "a datagram socket", "a device"])
def test_what_is_no_key(across: Pair, code: str) -> None:
    here, there = across
    server(there)
    run(here, f"s = socket.socket()\n{code}")
    assert (noted(here), withheld(here)) == (0, None)
    with host_path(here, there):
        client(here, there.address)


def test_an_ipv4_mapped_socket_has_a_key(across: Pair) -> None:
    here, _ = across
    run(here, 'set_key(socket.socket(socket.AF_INET6), "::ffff:10.32.0.3", b"secret")')
    assert (noted(here), withheld(here)) == (KEYS, "keys")


def test_a_key_of_tcp_ao(across: Pair) -> None:
    """It is noted by its option's name, whatever this kernel answers."""
    here, there = across
    server(there)
    said = run(here, """
        key = struct.pack("=HH4s120x64siIBBBBBBB5x", socket.AF_INET, 0,
                          socket.inet_aton(sys.argv[1]), b"hmac(sha1)", 0, 0, 32, 1, 1, 0, 6, 0,
                          0)
        print(error_of(lambda: socket.socket().setsockopt(socket.IPPROTO_TCP, AO_ADD_KEY, key)))
    """, there.address)
    assert said  # ENOPROTOOPT if the kernel lacks TCP-AO
    assert (noted(here), withheld(here)) == (KEYS, "keys")
    with overlay(here, there, because="keys"):
        client(here, there.address)


def test_a_key_of_a_program_of_the_host(machines: list[Machine]) -> None:
    """The host's own programs are in no sandbox, so their keys do not matter."""
    table = machines[0].loaded.table("notes")
    before = len(table)
    join = f"echo $$ > {machines[0].cgroup}/cgroup.procs && exec \"$@\""
    code = ("import sys; sys.path.insert(0, 'tests/netns'); from inside import *;"
            "set_key(socket.socket(), '10.32.0.3', b'secret')")
    machines[0].netns.run("sh", "-c", join, "sh", "/usr/bin/python3", "-c", code)
    assert len(table) == before
