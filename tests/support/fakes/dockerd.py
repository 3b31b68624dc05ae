"""Does with a container's namespace and interface what dockerd does, in dockerd's order."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from driver.link.pairs.veth import Veths
from driver.model import Endpoint
from driver.services.ports import Veth
from tests.support.world import netns
from tests.support.world.netns import Netns

# As `iptables-save -t nat` shows them in a container on any network but Docker's default one;
# the ports are those of dockerd's name server.  They turn on connection tracking in the namespace.
_NAME_SERVER = """\
*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:40001
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:40002
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 40001 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 40002 -j SNAT --to-source :53
COMMIT
"""

# On the host itself, with no container on Docker's default network.
_HOST = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""


def start_on(host: Netns) -> None:
    """Give a namespace that stands for a host the rules of a Docker host."""
    _restore(host, _HOST)


@contextmanager
def sandbox(hint: str = "c") -> Iterator[Netns]:
    """Make a container's namespace, still without interfaces; remove it after the block."""
    with netns.made(hint) as made:
        _restore(made, _NAME_SERVER)
        yield made


def _restore(where: Netns, rules: str) -> None:
    subprocess.run(where.command("iptables-restore", "--wait"), input=rules, text=True, check=True,
                   timeout=60)


@pytest.fixture
def make_sandbox() -> Iterator[Callable[[str], Netns]]:
    """A factory: make_sandbox("c") returns a new sandbox, removed at the end of the test."""
    netns.require_root()
    with ExitStack() as stack:
        yield lambda hint="c": stack.enter_context(sandbox(hint))


def make_veth(host: Netns, endpoint: Endpoint, mtu: int = 1500) -> Veth:
    """Make the endpoint's pair in a namespace that stands for a host."""
    return host.call(lambda: Veths().create_veth(endpoint.id, endpoint.mac, mtu))


def move_in(host: Netns, sandbox: Netns, endpoint: Endpoint, veth: Veth,
            name: str = "eth0") -> None:
    """Move the container's end in, down, rename, MAC, addresses, up: all versions' order."""
    host.ip("link set", veth.container_name, "netns", sandbox.name)
    sandbox.ips(
        f"link set {veth.container_name} down",
        f"link set {veth.container_name} name {name}",
        f"link set {name} address {endpoint.mac.hex(':')}",
        *(f"addr add {address} dev {name}" for address in (endpoint.address, endpoint.address6)
          if address is not None),
        f"link set {name} up")


def move_out(host: Netns, sandbox: Netns, veth: Veth, name: str = "eth0") -> None:
    """Set the end down, rename it back, move it to the host: what dockerd does after Leave."""
    sandbox.ips(f"link set {name} down",
                f"link set {name} name {veth.container_name}",
                f"link set {veth.container_name} netns {host.name}")
