"""Tests hosts without TCP timestamps: they must not choose a tuple that is in TIME_WAIT."""

from __future__ import annotations

import pytest

from driver.datapath.loading import bpf
from driver.datapath.tables.flows import TIME_WAIT
from tests.netns.talk import host_path, run, started
from tests.support.world.machines import Container

# So many that, by chance, about 1,500 * 1,500 / 2 / 28,232 = 40 of them would choose an earlier
# connection's source port out of 28,232.
CONNECTIONS = 1500


@pytest.mark.parametrize("closes_first", ["client", "server"])
@pytest.mark.parametrize("off", ["client", "server", "both", "neither"])
def test_many_short_connections(across: tuple[Container, Container], off: str,
                                closes_first: str) -> None:
    here, there = across
    for side, container in (("client", here), ("server", there)):
        if off in (side, "both"):
            container.netns.sysctl("ipv4.tcp_timestamps", 0)
    started(there, """
        server = listen("0.0.0.0", 80)
        ready()
        while True:
            c = server.accept()[0]
            c.sendall(b"hello")
            if sys.argv[1] == "client":
                c.recv(1)
            c.close()
    """, closes_first)
    # On a busy machine a FIN may be sent again, and its ACK finds its connection's flow gone.
    with host_path(here, there, connections=CONNECTIONS, also={"late_ack"}):
        run(here, """
            for _ in range(int(sys.argv[3])):
                c = connected(sys.argv[1], 80)
                assert exactly(c, 5) == b"hello"
                if sys.argv[2] == "server":
                    assert c.recv(1) == b""
                c.close()
        """, there.address, closes_first, CONNECTIONS)
    if closes_first == "client":
        known = {int(leaf.no_timestamps)
                 for _, leaf in bpf.entries(here.machine.loaded.table("flows"))
                 if leaf.state == TIME_WAIT and leaf.sandbox == here.netns.cookie}
        assert known == {int(off != "neither")}
