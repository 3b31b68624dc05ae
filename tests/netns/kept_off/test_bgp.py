"""Tests BGP sessions with a password (TCP-MD5) between two BIRDs, Debian's routing daemon.

A session must come up with the right password, and with no other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netns.kept_off.noted import told, withheld
from tests.netns.talk import counted
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

_CONF = """
router id {own};
protocol device {{ }}
protocol static {{ ipv4; route {route} blackhole; }}
protocol bgp peer {{
    local {own} as {own_as};
    neighbor {peer} as {peer_as};
    {password}
    {passive}
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 1;
    multihop;
    ipv4 {{ import all; export all; }};
}}
"""


class Bird:
    """One daemon; it ends with its machine at the latest."""

    def __init__(self, container: Container, folder: Path, peer: Container, *, first: bool,
                 password: str) -> None:
        self._container, self._control = container, folder / f"{container.netns.name}.ctl"
        conf = folder / f"{container.netns.name}.conf"
        conf.write_text(_CONF.format(
            own=container.address, peer=peer.address, own_as=64512 + first,
            peer_as=64513 - first, route=f"192.0.2.{128 * first}/25",
            password=f'password "{password}";' if password else "",
            passive="" if first else "passive on;"))
        self._process = container.start("bird", "-f", "-c", str(conf), "-s", str(self._control))
        wait_until(self._control.exists, 30, "BIRD listens")

    def asks(self, *command: str) -> str:
        return self._container.run("birdc", "-s", str(self._control), *command).stdout

    def established(self) -> bool:
        return "Established" in self.asks("show", "protocols", "peer")


@pytest.fixture
def routers(machines: list[Machine]) -> tuple[Container, Container]:
    return machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")


def test_the_right_password(routers: tuple[Container, Container], tmp_path: Path) -> None:
    here, there = routers
    with counted(here, there) as total:
        server = Bird(there, tmp_path, here, first=False, password="secret")
        with told(there):
            client = Bird(here, tmp_path, there, first=True, password="secret")
            wait_until(lambda: client.established() and server.established(), 30, "the session")
            wait_until(lambda: "192.0.2.128/25" in server.asks("show", "route"), 30, "a route")
            assert "192.0.2.0/25" in client.asks("show", "route")
    assert (withheld(here), withheld(there)) == ("keys", "keys")
    assert not set(total) & {"connected", "accepted"}
    assert total["keys"] >= 1


@pytest.mark.parametrize("password", ["wrong", ""], ids=["the wrong one", "none"])
def test_another_password(
        routers: tuple[Container, Container], tmp_path: Path, password: str) -> None:
    here, there = routers
    server = Bird(there, tmp_path, here, first=False, password="secret")
    with told(there), counted(here, there) as total:
        client = Bird(here, tmp_path, there, first=True, password=password)
        count = "TCPMD5Failure" if password else "TCPMD5NotFound"

        def refused() -> int:
            heads, values = (line.split() for line in there.run(
                "grep", "^TcpExt", "/proc/net/netstat").stdout.splitlines())
            return int(values[heads.index(count)])

        wait_until(lambda: refused() >= 3, 30, "SYNs of three attempts that the kernel refuses")
        assert not client.established()
        assert not server.established()
    assert not set(total) & {"connected", "accepted"}
