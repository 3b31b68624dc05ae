"""Tests `slim ss`, `slim why` and `slim flows` for containers of real dockerds."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.lab.conftest import CALL, SERVE
from tests.lab.docker.test_docker import create_network, start
from tests.lab.docker.test_own_rules import inside
from tests.lab.rig.hosts import CommandFailed, Host, Program
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


def test_who_opens_and_closes_what(h1: Host, h2: Host, tmp_path: Path) -> None:
    create_network([h1, h2])
    web, near = start(h2, "web", *SERVE), start(h1, "near", *SERVE)
    start(h1, "shop")
    wait_until(lambda: said(h1, "why", "shop", web)["Verdict"] == "host path", WAIT_S,
               "the host path")
    slim_flows = [str(PROJECT / ".venv/bin/python"), "-m", "driver", "flows", "--follow"]
    shown, read = (Program(h1, [*slim_flows, *more], tmp_path / f"{len(more)}.log")
                   for more in ((), ("--json", "shop")))
    try:
        wait_until(lambda: "CONTAINER" in shown.output(), WAIT_S, "it follows")

        def seen() -> list[dict[str, Any]]:
            return [json.loads(line) for line in read.output().splitlines()]

        def calls_are_seen() -> bool:
            h1.docker("exec", "shop", *CALL, web, "7000")
            return len(seen()) >= 2

        wait_until(calls_are_seen, WAIT_S, "a connection that opens and closes")
        h1.docker("exec", "shop", *CALL, near, "7000")
        wait_until(lambda: any(each["PeerName"] == "near" and each["Event"] == "close"
                               for each in seen()), WAIT_S, "a connection on this host")
        for each in seen():
            assert (each["Container"], each["Network"]) == ("shop", "app")
            assert (each["PeerName"], each["Verdict"]) in {("web", "host"), ("near", "local")}
        with pytest.raises(CommandFailed):
            h2.docker("exec", "web", "python3", "-c", "import socket, sys; "
                      "socket.create_connection((sys.argv[1], 9), 5)", near)
        refused = wait_until(lambda: said(h1, "flows", "near", "--refused")["Refusals"], WAIT_S,
                             "a refusal")
        assert [(each["Container"], each["PeerName"], each["LocalPort"], each["Reason"],
                 each["Count"]) for each in refused] == [("near", "web", 9, "no_listener", 1)]
        assert "refused near:9 <- " in h1.driver_log.read_text()
        assert "(web): no_listener: " in h1.driver_log.read_text()
        assert "no_listener" in slim(h1, "flows", "--refused")
    finally:
        assert shown.end(signal.SIGINT) == 0
        assert read.end(signal.SIGINT) == 0
    lines = shown.output().splitlines()
    assert any("shop" in line and "web" in line and " host " in line for line in lines)
