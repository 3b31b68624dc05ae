"""Tests that a container is found by its name from every host, with real dockerds and programs."""

from __future__ import annotations

import json

import pytest

from tests.lab.conftest import TOOLS
from tests.lab.docker.test_docker import SUBNET, create_network, start
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import CommandFailed, Host
from tests.support.run.wait import wait_until

pytestmark = [every_docker, pytest.mark.usefixtures("no_such_name")]

WAIT_S = 20
LONGEST_S = 5.0  # for which resolvers wait (resolv.conf(5)): none would give up


# What the C library of the container finds: by getaddrinfo, and by gethostbyaddr for an address.
LOOKUP = """
import json, socket, sys
name, family = sys.argv[1], getattr(socket, sys.argv[2])
try:
    found = socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)
    print(json.dumps(sorted({each[4][0] for each in found})))
except socket.gaierror:  # no such name
    print("[]")
"""
REVERSE = "import socket, sys; print(socket.gethostbyaddr(sys.argv[1])[0])"


# Asks for a name, again and again, on a socket that stays connected, and by the C library; says
# when each way began to fail and for how long, until it is told to end.
ASKS = """
import select, socket, struct, sys, time
name = sys.argv[1]
query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + bytes((len(name),)) + name.encode()
query += bytes((0, 0, 1, 0, 1))
kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
kept.connect(("127.0.0.11", 53))
kept.settimeout(0.2)
def by_kept():
    kept.send(query)
    answer = kept.recv(512)
    return answer[3] & 15 == 0 and answer[7] == 1
def by_library():
    return socket.getaddrinfo(name, 80, socket.AF_INET)
longest, since = {}, {}
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for way in (by_kept, by_library):
        try:
            works = way()
        except OSError:
            works = False
        now = time.monotonic()
        began = since.setdefault(way, now)
        longest[way] = max(longest.get(way, 0), now - began)
        if works:
            del since[way]
print(max(longest.values()), flush=True)
"""


def lookup(host: Host, container: str, name: str, family: str = "AF_INET") -> list[str]:
    """Return a name's addresses; none: there is no such name."""
    return list(json.loads(host.docker("exec", container, "python3", "-c", LOOKUP, name, family)))


def wait_for(host: Host, container: str, name: str, *wanted: str) -> None:
    wait_until(lambda: lookup(host, container, name) == sorted(wanted), WAIT_S,
               f"{name} to be {wanted}, is {lookup(host, container, name)}")


@feature("names across hosts")
def test_every_name_of_a_container_on_another_host(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    asker = start(h1, "alice")
    web = start(h2, "web", options=("--network-alias", "www", "--hostname", "front"))
    short_id = h2.docker("ps", "-q", "--filter", "name=web").strip()
    for name in ("web", "www", "front", short_id, "web.app", "WEB"):
        wait_for(h1, "alice", name, web)
    assert lookup(h1, "alice", "alice") == [asker]
    assert lookup(h1, "alice", "web", "AF_INET6") == []
    assert h1.docker("exec", "alice", "python3", "-c", REVERSE, web).strip() == "web.app"
    assert lookup(h2, "web", "alice") == [asker]


@feature("names across hosts")
def test_names_that_change_and_go(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "alice")
    first, second = start(h2, "one", options=("--network-alias", "web")), start(
        h2, "two", options=("--network-alias", "web"))
    wait_for(h1, "alice", "web", first, second)
    h2.docker("rename", "one", "uno")
    wait_for(h1, "alice", "uno", first)
    wait_for(h1, "alice", "one")
    h2.docker("network", "disconnect", "app", "uno")
    wait_for(h1, "alice", "web", second)
    h2.docker("rm", "-f", "two")
    wait_for(h1, "alice", "web")


@feature("names across hosts")
def test_without_a_driver_dockers_names_go_on(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "alice")
    bob, web = start(h1, "bob"), start(h2, "web")
    wait_for(h1, "alice", "web", web)
    assert lookup(h1, "alice", "bob") == [bob]
    h1.kill_driver()
    wait_for(h1, "alice", "web")
    assert lookup(h1, "alice", "bob") == [bob]
    h1.start_driver()
    wait_for(h1, "alice", "web", web)


@feature("names across hosts")
def test_no_query_fails_for_long_while_drivers_come_and_go(h1: Host, h2: Host) -> None:
    """Names of this host's containers, which Docker's name server knows, too."""
    create_network([h1, h2])
    start(h1, "bob")
    h1.docker("run", "-d", "-i", "--name", "alice", "--network", "app", TOOLS, "python3", "-uc",
              ASKS, "bob")
    wait_until(lambda: "ready" in h1.docker("logs", "alice"), WAIT_S, "the asking to begin")
    for end in (h1.kill_driver, h1.stop_driver):
        end()
        h1.start_driver()
    h1.exec("sh", "-c", "echo end | docker attach alice || true")
    wait_until(lambda: len(h1.docker("logs", "alice").split()) == 2, WAIT_S, "the result")
    assert float(h1.docker("logs", "alice").split()[1]) < LONGEST_S


@feature("names across hosts")
def test_while_dockerd_hangs_known_names_go_on(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "alice")
    bob, web = start(h1, "bob"), start(h2, "web")
    wait_for(h1, "alice", "web", web)
    wait_for(h1, "alice", "bob", bob)
    pid = h1.inspect("alice")["State"]["Pid"]

    def ask(name: str) -> list[str]:  # not by Docker, which would hang
        return list(json.loads(h1.exec("nsenter", f"--target={pid}", "--mount", "--net", "python3",
                                       "-c", LOOKUP, name, "AF_INET")))

    h1.exec("pkill", "-STOP", "-x", "dockerd")
    try:
        for _ in range(20):
            assert (ask("web"), ask("bob")) == ([web], [bob])
        new = start(h2, "new")
        wait_until(lambda: ask("new") == [new], WAIT_S, "a new name of another host")
    finally:
        h1.exec("pkill", "-CONT", "-x", "dockerd")
    wait_for(h1, "alice", "late", start(h1, "late"))


@feature("names across hosts")
def test_a_network_without_names(h1: Host, h2: Host) -> None:
    for host in (h1, h2):
        host.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", SUBNET,
                    "-o", "slim.names=off", "app")
    start(h1, "alice")
    bob = start(h1, "bob")
    start(h2, "web")
    create_network([h1, h2], "other", "10.33.0.0/16")
    start(h1, "carol", network="other")
    wait_for(h1, "carol", "web2", start(h2, "web2", network="other"))  # by now web would be known
    assert lookup(h1, "alice", "web") == []
    assert lookup(h1, "alice", "bob") == [bob], "by Docker's name server"
    with pytest.raises(CommandFailed, match=r"slim\.names='maybe': want on or off"):
        h1.docker("network", "create", "-d", "slim", "-o", "slim.names=maybe", "wrong")
