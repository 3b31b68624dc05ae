"""Tests what users see when a firewall between two hosts drops the endpoint ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import call, check_views, create_network, start
from tests.lab.rig.hosts import PROJECT, CommandFailed, Host, Lab, run
from tests.support.run.wait import wait_until

FOUND_S = 60  # some seconds, more on a busy machine
CONNECT = """
import errno, socket, sys
s = socket.socket()
s.settimeout(100)
print(errno.errorcode.get(s.connect_ex((sys.argv[1], 7000)), "none"))
"""


@contextmanager
def firewall(lab: Lab) -> Iterator[None]:
    """A firewall between both hosts' cables and the fabric's bridge."""
    run(lab.fabric("nft", """
        table netdev fire {
            chain frames {
                type filter hook ingress devices = { h1, h2 } priority 0;
                tcp dport 61000-65535 drop
            }
        }"""), env=lab.env)
    try:
        yield
    finally:
        run(lab.fabric("nft", "delete table netdev fire"), env=lab.env)


def slim(host: Host, *command: str) -> str:
    return host.exec(str(PROJECT / ".venv/bin/python"), "-m", "driver", *command)


def peers(host: Host) -> str:
    return next(line for line in slim(host, "status").splitlines() if line.startswith("peers"))


@pytest.mark.timeout(400)
def test_endpoint_ports_are_missing_in_a_firewall(hosts: list[Host], lab: Lab) -> None:
    first, second = hosts
    create_network(hosts)
    a, b = start(first, "alice", *SERVE), start(second, "bob", *SERVE)
    check_views(call(first, "alice", b), client=a, server=b)
    wait_until(lambda: peers(first).endswith("1 on the host path"), FOUND_S, "it is probed")
    with firewall(lab):
        assert first.docker("exec", "alice", "python3", "-c", CONNECT, b) == "ETIMEDOUT"
        wait_until(lambda: "1 blocked: " in peers(first), FOUND_S, "it is found")
        before = first.counters()
        check_views(call(first, "alice", b), client=a, server=b)
        after = first.counters()
        assert after["peer_blocked"] > before["peer_blocked"]
        assert after["connected"] == before["connected"]
        with pytest.raises(CommandFailed, match=r"FAIL  peers .* \(198\.18\.0\.2\): it answers"):
            slim(first, "doctor")
    wait_until(lambda: peers(first).endswith("1 on the host path"), FOUND_S, "it is over")
    check_views(call(first, "alice", b), client=a, server=b)
    assert first.counters()["connected"] > after["connected"]
