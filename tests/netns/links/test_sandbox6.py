"""Tests the inside of a sandbox whose host has an IPv6 underlay, as IPv4's in test_sandbox.py."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from driver.link.sandbox import nonlocal_bind, rules
from driver.link.sandbox.inspection import KernelInspector
from driver.link.sandbox.sandbox import KernelSandboxes
from driver.model import Endpoint, HostAddress
from driver.services.ports import Veth
from tests.netns.links.test_sandbox import endpoint
from tests.support.fakes import dockerd
from tests.support.world.netns import Netns

MakeNetns = Callable[[str], Netns]
UNDERLAY, OTHER = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
UNDERLAY4 = IPv4Address("192.0.2.1")
MTU = 1500 - 70


class Scene:
    """A host and a container with two slim networks."""

    def __init__(self, host: Netns, inside: Netns) -> None:
        self.inside = inside
        self.members: list[tuple[Endpoint, Veth]] = []
        for number in (1, 2):
            made = replace(endpoint(number, inside), underlay=UNDERLAY)
            veth = dockerd.make_veth(host, made)
            dockerd.move_in(host, inside, made, veth, f"eth{number - 1}")
            self.members.append((made, veth))

    def set_up(self, underlay: HostAddress | None = UNDERLAY, *, member: int = 0) -> None:
        KernelSandboxes().set_up(self.inside.path, *self.members[member], underlay=underlay,
                                 overlay_mtu=MTU, primary=True)

    def missing(self, *, member: int = 0) -> str:
        found = KernelInspector(overlay_mtu=lambda: MTU, with_filter=False).look(
            self.inside.path, [self.members[member]], underlay=UNDERLAY)
        return found.missing

    def all(self) -> str:
        return (self.inside.ip("-6 rule show") + self.inside.ip("-6 route show table all")
                + self.inside.ip("rule show") + self.inside.ip("route show table all"))

    def setting(self) -> str:
        return self.inside.run("sysctl", "-n", "net.ipv6.ip_nonlocal_bind").stdout.strip()


@pytest.fixture
def scene(make_netns: MakeNetns, make_sandbox: MakeNetns) -> Scene:
    return Scene(make_netns("host"), make_sandbox("c"))


def test_set_up_twice_and_torn_down(scene: Scene) -> None:
    before = scene.inside.ip("-6 rule show"), scene.inside.ip("rule show"), scene.setting()
    scene.set_up()
    made = scene.all()
    assert scene.missing() == ""
    scene.set_up()
    assert scene.all() == made
    assert f"local {UNDERLAY} dev eth0 table local" in made
    assert "default dev eth0 table 20765" in made
    assert f"10:\tfrom {UNDERLAY} iif lo lookup 20765" in made
    assert scene.setting() == "1"
    assert str(UNDERLAY) not in scene.inside.ip("addr show")
    KernelSandboxes().tear_down(scene.inside.path, UNDERLAY)
    assert (scene.inside.ip("-6 rule show"), scene.inside.ip("rule show"), scene.setting()
            ) == before
    assert str(UNDERLAY) not in scene.all()


def test_what_is_missing_is_named(scene: Scene) -> None:
    scene.set_up()
    for command, said in (
            ("-6 rule del pref 10", "rule 10 (lookup 20765)"),
            ("-6 rule add pref 0 lookup local protocol kernel", "rule 0 (lookup 255) is back"),
            (f"-6 route del local {UNDERLAY} table local", f"route local {UNDERLAY}"),
            ("-6 route flush table 20765", "route default dev eth0 table 20765")):
        scene.inside.ip(command)
        assert scene.missing() == said
        scene.set_up()
        assert scene.missing() == ""
    scene.inside.sysctl("ipv6.ip_nonlocal_bind", 0)
    assert scene.missing() == "net.ipv6.ip_nonlocal_bind"


def test_another_interface_carries_it(scene: Scene) -> None:
    scene.set_up()
    scene.set_up(member=1)
    assert scene.missing(member=1) == ""
    assert f"local {UNDERLAY} dev eth1" in scene.all()
    assert f"local {UNDERLAY} dev eth0" not in scene.all()
    assert "default dev eth0 table 20765" not in scene.all()


def test_another_address_and_another_family(scene: Scene) -> None:
    """Nothing of before is left."""
    scene.set_up(OTHER)
    scene.set_up()
    assert str(OTHER) not in scene.all()
    assert scene.missing() == ""
    scene.set_up(UNDERLAY4)
    assert str(UNDERLAY) not in scene.all()
    assert scene.setting() == "0"
    assert f"from {UNDERLAY4}" in scene.all()
    scene.set_up()
    assert str(UNDERLAY4) not in scene.all()
    assert "slim-sandbox" not in scene.inside.run("nft", "list", "tables").stdout
    assert scene.missing() == ""
    scene.set_up(None)
    assert str(UNDERLAY) not in scene.all()


def test_lo_without_ipv6(scene: Scene) -> None:
    scene.inside.sysctl("ipv6.conf.lo.disable_ipv6", 1)
    scene.set_up()
    assert scene.missing() == ""


def test_a_host_that_was_booted_without_ipv6(scene: Scene, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    """There are no rules of IPv6 to remove."""
    real = rules.dump

    def dump(route: object, method: str, **filters: object) -> tuple[object, ...]:
        if filters.get("family") == 10:
            raise NetlinkError(errno.EAFNOSUPPORT)
        return real(route, method, **filters)  # type: ignore[arg-type]

    monkeypatch.setattr(rules, "dump", dump)
    scene.set_up(UNDERLAY4)
    KernelSandboxes().tear_down(scene.inside.path, UNDERLAY4)
    assert str(UNDERLAY4) not in scene.all()


def test_a_setting_that_cannot_be_written(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a managed plugin, whose /proc/sys is read-only."""
    monkeypatch.setattr(nonlocal_bind.os, "access", lambda _path, _mode: False)
    assert not nonlocal_bind.works()
    scene.inside.sysctl("ipv6.ip_nonlocal_bind", 1)
    scene.inside.call(nonlocal_bind.remove)
    assert scene.setting() == "1"
