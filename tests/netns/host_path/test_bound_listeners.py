"""Tests listeners bound to a device (SO_BINDTODEVICE), in containers on one network and several.

Host path packets of all networks arrive by the first interface.  So a container on several networks
with such a listener takes the overlay path, whose packets arrive by their own interface.
"""

from __future__ import annotations

from typing import Final

import pytest

from driver.datapath.tables.withheld import NOTE_BOUND_LISTENER, NOTE_KEYS
from tests.netns.kept_off.noted import BOUND_LISTENER, KEYS, noted, told, withheld
from tests.netns.talk import (
    INSIDE,
    Program,
    client,
    counted,
    host_path,
    overlay,
    run,
    server,
    started,
)
from tests.support.world.machines import Container, Machine

FIRST: Final = "10.32.0."
SECOND: Final = "10.33.0."

_REFUSED = 'print(error_of(lambda: connected(sys.argv[1], 80)))'


def bound_server(there: Container, device: str, protocol: int = 0) -> Program:
    return started(there, """
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[2]))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
        server.bind(("", 80))
        server.listen()
        serve(server)
    """, device, protocol)


def on_two_networks(machines: list[Machine]) -> tuple[Container, Container]:
    return (machines[0].container(FIRST + "2/16", SECOND + "2/16"),
            machines[1].container(FIRST + "3/16", SECOND + "3/16"))


def only_by(here: Container, there: Container, net: str, other: str) -> None:
    """Assert that the listener answers callers of its own network's address, and no others."""
    with overlay(here, there):
        own = client(here, net + "3").split()
    assert [own[0], *own[2:]] == [net + "2", net + "3", "80"]
    assert run(here, _REFUSED, other + "3") == "ECONNREFUSED"


@pytest.mark.parametrize("protocol", [0, 262], ids=["TCP", "MPTCP"])
@pytest.mark.parametrize(("device", "net", "other"), [
    ("eth0", FIRST, SECOND), ("eth1", SECOND, FIRST)], ids=["first", "second"])
def test_it_is_reached_by_its_own_network_only(
        machines: list[Machine], device: str, net: str, other: str, protocol: int) -> None:
    here, there = on_two_networks(machines)
    bound_server(there, device, protocol)
    assert (noted(there), withheld(there)) == (BOUND_LISTENER, "bound_listener")
    with told(there):
        only_by(here, there, net, other)
        with overlay(here, there, because="bound_listener"):  # its own calls, too
            server(here, 81)
            client(there, net + "2", 81)


def test_a_caller_that_has_not_heard_is_told(machines: list[Machine]) -> None:
    here, there = on_two_networks(machines)
    bound_server(there, "eth1")
    with counted(here, there) as total:
        assert run(here, _REFUSED, SECOND + "3") == "EHOSTUNREACH"
    assert total["syn_withheld"] in (1, 2)


@pytest.mark.parametrize("protocol", [0, 262], ids=["TCP", "MPTCP"])
@pytest.mark.parametrize("how", ["device", "ifindex"])
def test_a_listener_that_is_known_is_bound(
        machines: list[Machine], how: str, protocol: int) -> None:
    """It is bound after listen(), by SO_BINDTODEVICE or SO_BINDTOIFINDEX."""
    here, there = on_two_networks(machines)
    program = started(there, """
        how, protocol = sys.argv[1:]
        server = listen("0.0.0.0", 80, protocol=int(protocol))
        def bind():
            sys.stdin.readline()
            if how == "device":
                server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
            else:
                server.setsockopt(socket.SOL_SOCKET, 62, socket.if_nametoindex("eth1"))
            print("bound", flush=True)
        threading.Thread(target=bind, daemon=True).start()
        serve(server)
    """, how, protocol)
    with host_path(here, there, connections=2, also={"listener_assigned"}):
        for net in (FIRST, SECOND):
            client(here, net + "3")
            program.line()
    program.say("bind")
    assert program.line() == "bound"
    with told(there):
        only_by(here, there, SECOND, FIRST)


def test_a_second_network_is_connected_later(machines: list[Machine]) -> None:
    """On one network it is on the host path; with two, no new listen() would be noticed."""
    here = machines[0].container(FIRST + "2/16", SECOND + "2/16")
    there = machines[1].container(FIRST + "3/16")
    bound_server(there, "eth0")
    with host_path(here, there):
        client(here, FIRST + "3")
    assert withheld(there) is None
    second = machines[1].connect(there, SECOND + "3/16", vni=2)
    assert (noted(there), withheld(there)) == (BOUND_LISTENER, "bound_listener")
    with told(there):
        only_by(here, there, FIRST, SECOND)
    machines[1].disconnect(there, second)
    with told(there), overlay(here, there):  # until the container ends
        client(here, FIRST + "3")


def test_the_first_network_is_disconnected(machines: list[Machine]) -> None:
    here, there = on_two_networks(machines)
    bound_server(there, "eth1")
    machines[1].disconnect(there, there.endpoints[0][0])
    with told(there), overlay(here, there):
        client(here, SECOND + "3")


def test_a_device_that_is_not_slims(machines: list[Machine]) -> None:
    """It stands for docker_gwbridge's: the container has one slim network and another way out."""
    here, there = machines[0].container(FIRST + "2/16"), machines[1].container(FIRST + "3/16")
    there.netns.ip("link add gw0 type veth peer name gw1")
    there.netns.ip("addr add 172.18.0.2/16 dev gw0")
    for name in ("gw0", "gw1"):
        there.netns.ip(f"link set {name} up")
    bound_server(there, "gw0")
    with counted(here, there) as total:
        assert run(here, _REFUSED, FIRST + "3") == "ECONNREFUSED"
    assert total == {"no_listener": 1}
    server(there, 81)  # the container stays on the host path
    with host_path(here, there):
        client(here, there.address, 81)


def test_on_one_network_it_is_on_the_host_path(machines: list[Machine]) -> None:
    here, there = machines[0].container(FIRST + "2/16"), machines[1].container(FIRST + "3/16")
    bound_server(there, "eth0")
    with host_path(here, there):
        client(here, there.address)
    assert withheld(there) is None


def test_keys_that_no_program_of_ours_has_seen(machines: list[Machine]) -> None:
    """A listener may be older than its host's first driver; here it runs in another cgroup."""
    here, there = machines[0].container(FIRST + "2/16"), machines[1].container()
    code = (f"import sys; sys.path.insert(0, {str(INSIDE)!r})\n"
            "from inside import *\ns = listen('', 80)\n"
            f"set_key(s, '{FIRST}2', b'secret')\nready()\nthreading.Event().wait()")
    outside = there.netns.start("/usr/bin/python3", "-c", code)
    try:
        assert outside.stdout is not None
        assert outside.stdout.readline() == "ready\n"
        assert noted(there) == 0
        machines[1].connect(there, FIRST + "3/16")
        assert (noted(there), withheld(there)) == (KEYS, "keys")
    finally:
        outside.kill()
        outside.communicate()
    assert run(here, _REFUSED, FIRST + "3") == "EHOSTUNREACH"


def test_both_sides_mean_the_same_bits() -> None:
    assert (NOTE_KEYS, NOTE_BOUND_LISTENER) == (KEYS, BOUND_LISTENER)
