"""Tests losing the memory of a SYN before its connection is established: nothing may hang."""

from __future__ import annotations

import pytest

from driver.datapath.loading import bpf
from tests.netns.talk import Program, counted, run, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container

# Only SYNs leave, so the client has a connection that the server does not know yet.
HELD = ("table ip held { chain out { type filter hook output priority 0; policy accept; "
        "tcp flags & (syn|ack) == ack drop; }; }")


@pytest.mark.parametrize("cookies", [0, 2])
def test_the_client_is_told(across: tuple[Container, Container], cookies: int) -> None:
    here, there = across
    there.netns.sysctl("ipv4.tcp_syncookies", cookies)
    server: Program = started(there, """
        server = listen("0.0.0.0", 80)
        ready()
        while True:
            c = server.accept()[0]
            print(error_of(lambda: c.recv(100) == b"hello" or c.recv(100)), flush=True)
    """)
    here.netns.run("nft", HELD)
    waiting = started(here, """
        c = connected(sys.argv[1], 80, timeout_s=20)
        ready()
        sys.stdin.readline()
        print(error_of(lambda: asked(c)))
    """, there.address)
    pending = there.machine.loaded.table("pending")
    cookie = there.netns.cookie
    known = wait_until(lambda: [key for key, leaf in bpf.entries(pending)
                                if leaf.sandbox == cookie], 30, "the SYN")
    for key in known:
        del pending[key]
    here.netns.run("nft", "delete table ip held")
    with counted(there) as grown:
        waiting.say("go on")
        assert waiting.rest() == "ECONNRESET"
        if not cookies:  # there was a socket, which must end, too
            assert server.line() in ("none", "ETIMEDOUT")
    assert grown.get("syn_forgotten", 0) == (not cookies)
    assert run(here, 'c = connected(sys.argv[1], 80); c.sendall(b"hello"); print("works")',
               there.address) == "works"
