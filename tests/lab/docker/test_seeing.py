"""Tests `slim ss` and `slim why` for containers of real dockerds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import create_network, start
from tests.lab.docker.test_own_rules import inside
from tests.lab.rig.hosts import CommandFailed, Host
from tests.support.run.wait import wait_until

WAIT_S = 30.0
HOLD = """
import socket, sys
c = socket.create_connection((sys.argv[1], 7000), 10)
c.recv(4096)
print("ready", flush=True)
sys.stdin.read()
"""


def slim(host: Host, *command: str) -> str:
    """Run `slim` on a host."""
    return host.exec(str(PROJECT / ".venv/bin/python"), "-m", "driver", *command)


def said(host: Host, *command: str) -> dict[str, Any]:
    return dict(json.loads(slim(host, *command, "--json")))


def hold(host: Host, name: str, address: str) -> str:
    """Start a container that keeps a connection to a server open; return its own address."""
    found = start(host, name, "python3", "-uc", HOLD, address, options=("-i",))
    wait_until(lambda: "ready" in host.docker("logs", name), WAIT_S, f"{name} is connected")
    return found


def test_who_talks_to_whom_and_why(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    web, near = start(h2, "web", *SERVE), start(h1, "near", *SERVE)
    start(h1, "idle")
    wait_until(lambda: said(h1, "why", "idle", web)["Verdict"] == "host path", WAIT_S,
               "the host path")
    alice, bob = hold(h1, "alice", web), hold(h1, "bob", near)
    wait_until(lambda: {each["PeerName"] for each in said(h1, "ss")["Sockets"]} == {
        "web", "near", "bob"}, WAIT_S, "the name of a container on another host")

    found = {(each["Container"], each["PeerName"]): each for each in said(h1, "ss")["Sockets"]}
    assert {ends: each["Path"] for ends, each in found.items()} == {
        ("alice", "web"): "host", ("bob", "near"): "local", ("near", "bob"): "local"}
    one = found["alice", "web"]
    assert (one["Local"], one["Peer"], one["PeerPort"], one["Network"]) == (
        alice, web, 7000, "app")
    assert one["PeerHost"].startswith("h2")
    assert one["RttMicroseconds"] > 0
    there, = said(h2, "ss", "web", "--path", "host")["Sockets"]
    assert (there["Peer"], there["PeerName"], there["LocalPort"]) == (alice, "alice", 7000)
    assert {each["Container"] for each in said(h1, "ss", "--listening")["Sockets"]} == {"near"}
    assert str(bob) in slim(h1, "ss", "near")

    assert said(h1, "why", "alice", "web:7000")["Verdict"] == "host path"
    assert said(h1, "why", "alice", "near:7000")["Verdict"] == "directly, on this host"
    assert said(h1, "why", "alice", "near:7001")["Verdict"].endswith(
        "nothing listens at port 7001 there")


def test_a_container_that_is_kept_off_and_what_does_not_exist(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    web = start(h2, "web", *SERVE, options=["--cap-add", "NET_ADMIN"])
    start(h1, "alice")
    wait_until(lambda: said(h1, "why", "alice", web)["Verdict"] == "host path", WAIT_S,
               "the host path")
    inside(h2, "web", "iptables", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    wait_until(lambda: "offers no host path" in slim(h1, "why", "alice", "web"), WAIT_S,
               "the peer is told")
    text = slim(h2, "why", "web", "alice")  # its host knows the table
    assert text.startswith("overlay path, because web has packet filter rules")
    assert "[own_rules]" in text
    assert "what to do: nothing if the rules are meant" in text
    hold(h1, "bob", web)
    assert [each["Path"] for each in said(h1, "ss", "bob")["Sockets"]] == ["overlay"]
    for command, error in (
            (("ss", "nobody"), "no container 'nobody' is in a slim network on this host; there "
             "are alice, bob"),
            (("why", "web", "alice"), "container 'web' is on h2"),
            (("why", "alice", "nobody"), "no container 'nobody' is known"),
            (("ss", "--network", "nowhere"), "there are app")):
        with pytest.raises(CommandFailed, match=error):
            slim(h1, *command)
