"""Tests the inside of a sandbox: what the kernel does with its routes, rules and filters."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest

from driver.errors import LinkError
from driver.link.netlink import filters, netns
from driver.link.sandbox.sandbox import KernelSandboxes
from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.services.ports import Veth
from tests.support.fakes import dockerd, smallest_program
from tests.support.world import packet_filter
from tests.support.world.netns import Netns, join

UNDERLAY = IPv4Address("192.0.2.1")
PEER = "192.0.2.2"
MakeNetns = Callable[[str], Netns]


def endpoint(number: int, sandbox: Netns) -> Endpoint:
    return Endpoint(
        id=EndpointId(f"{number:x}" * 64), network_id=NetworkId("n"), vni=Vni(number),
        host=HostId("h"), underlay=UNDERLAY, mac=bytes((2, 0x42, 10, 31 + number, 0, 2)),
        address=IPv4Interface(f"10.{31 + number}.0.2/16"),
        address6=IPv6Interface(f"fd00:{number}::2/64"), port=61000 + number,
        sandbox_key=sandbox.path)


@dataclass(frozen=True)
class Scene:
    """A host and a container as dockerd leaves it, on slim and on docker_gwbridge."""

    host: Netns
    inside: Netns
    first: Endpoint
    veth: Veth

    def route_to(self, *words: str) -> str:
        return self.inside.ip("route get", *words).splitlines()[0]


@pytest.fixture
def scene(make_netns: MakeNetns, make_sandbox: MakeNetns) -> Scene:
    host, inside = make_netns("host"), make_sandbox("c")
    for interface in ("all", "default"):
        inside.sysctl(f"ipv4.conf.{interface}.rp_filter", 1)
    first = endpoint(1, inside)
    veth = dockerd.make_veth(host, first)
    dockerd.move_in(host, inside, first, veth)
    join(host, "gw0", inside, "eth1")
    inside.ip("addr add 172.18.0.2/16 dev eth1")
    inside.ip("route add default via 172.18.0.1")
    return Scene(host, inside, first, veth)


@pytest.fixture
def program() -> Iterator[int]:
    with smallest_program.loaded() as descriptor:
        yield descriptor


def set_up(scene: Scene, *, primary: bool = True, fd: int | None = None, mtu: int = 1450,
           underlay: IPv4Address = UNDERLAY) -> None:
    KernelSandboxes(ingress_program_fd=fd).set_up(
        scene.inside.path, scene.first, scene.veth, underlay=underlay, overlay_mtu=mtu,
        primary=primary)


def state(inside: Netns) -> tuple[str, ...]:
    return (*(inside.ip(what) for what in (
        "rule", "-6 rule", "route show table all", "-6 route show table all")),
        repr(packet_filter.rules(inside)))


def test_connections_from_u_leave_by_the_host_path(scene: Scene) -> None:
    set_up(scene)
    assert f"from {UNDERLAY} dev eth0 table 20765" in scene.route_to(PEER, "from", str(UNDERLAY))
    marked = scene.route_to(PEER, "mark 0x511d0000")
    assert f"dev eth0 table 20765 src {UNDERLAY}" in marked
    # Nothing else does.
    assert "via 172.18.0.1 dev eth1" in scene.route_to(PEER)
    assert "via 172.18.0.1 dev eth1" in scene.route_to(PEER, "mark 0x511d0001")


def test_the_hosts_own_services_at_u_stay_reachable(scene: Scene) -> None:
    assert "via 172.18.0.1 dev eth1" in scene.route_to(str(UNDERLAY))
    set_up(scene)
    assert "via 172.18.0.1 dev eth1" in scene.route_to(str(UNDERLAY))


def test_packets_to_u_are_taken_in_under_strict_reverse_path_filtering(scene: Scene) -> None:
    with pytest.raises(RuntimeError):  # still without such an address and forwarding
        scene.route_to(str(UNDERLAY), "from", PEER, "iif eth0")
    set_up(scene)
    assert scene.route_to(str(UNDERLAY), "from", PEER, "iif eth0").startswith("local")
    # On one host source and destination are U.
    same = scene.route_to(str(UNDERLAY), "from", str(UNDERLAY), "iif eth0")
    assert same.startswith("local")
    # From the wrong interface it is still refused.
    with pytest.raises(RuntimeError):
        scene.route_to(str(UNDERLAY), "from", "10.32.0.9", "iif eth1")


def test_what_is_put_away_is_down_under_its_first_name(scene: Scene) -> None:
    set_up(scene)
    KernelSandboxes().put_away(scene.inside.path, scene.first, scene.veth)
    shown = scene.inside.ip("-o link show dev", scene.veth.container_name)
    assert "state DOWN" in shown
    assert not scene.inside.ip("-o addr show dev", scene.veth.container_name)
    with pytest.raises(RuntimeError):  # dockerd relies on this
        scene.inside.ip("link show dev eth0")
    assert "dev eth1" in scene.route_to("10.32.0.9")  # no program inside can use it


def test_what_is_not_inside_cannot_be_put_away(scene: Scene) -> None:
    absent = replace(scene.veth, host_ifindex=scene.veth.host_ifindex + 1000)
    with pytest.raises(LinkError, match="is not inside"):
        KernelSandboxes().put_away(scene.inside.path, scene.first, absent)
    with pytest.raises(LinkError, match="no such file"):
        KernelSandboxes().put_away("/run/netns/no-such-namespace", scene.first, scene.veth)


def test_what_may_be_somebody_elses_is_not_put_away(scene: Scene) -> None:
    other = replace(scene.first, mac=bytes((2, 0, 0, 0, 0, 9)))
    with pytest.raises(LinkError, match="is not inside"):
        KernelSandboxes().put_away(scene.inside.path, other, scene.veth)
    assert "state UP" in scene.inside.ip("-o link show dev eth0")


def test_only_the_overlay_pays_for_its_headers(scene: Scene) -> None:
    set_up(scene)
    overlay = scene.inside.ip("route show dev eth0")
    assert re.search(r"10\.32\.0\.0/16 proto kernel scope link src 10\.32\.0\.2 mtu 1450", overlay)
    overlay6 = scene.inside.ip("-6 route show dev eth0")
    assert re.search(r"fd00:1::/64 proto kernel metric 256 mtu 1450", overlay6)
    assert "mtu" not in scene.inside.ip("route show table 20765")
    assert "mtu 1500" in scene.inside.ip("link show eth0")


def test_route_mtu_is_never_above_the_interfaces(make_netns: MakeNetns,
                                                 make_sandbox: MakeNetns) -> None:
    host, inside = make_netns("host"), make_sandbox("c")
    first = endpoint(1, inside)
    veth = dockerd.make_veth(host, first, mtu=1300)
    dockerd.move_in(host, inside, first, veth)
    set_up(Scene(host, inside, first, veth), mtu=1450)
    assert "mtu 1300" in inside.ip("route show 10.32.0.0/16")


def test_the_local_table_is_never_without_a_rule(scene: Scene) -> None:
    set_up(scene)
    rules = scene.inside.ip("rule")
    assert [line.split(":")[0] for line in rules.splitlines()] == [
        "10", "11", "20", "100", "32766", "32767"]
    assert "100:\tfrom all lookup local" in rules
    assert scene.route_to("10.32.0.2").startswith("local")
    assert scene.route_to("127.0.0.1").startswith("local")


def test_set_up_twice_and_tear_down_twice(scene: Scene, program: int) -> None:
    set_up(scene, primary=False, fd=program)
    before = state(scene.inside)
    set_up(scene, fd=program)
    once = state(scene.inside)
    assert once != before
    set_up(scene, fd=program)
    assert state(scene.inside) == once
    for _ in range(2):
        KernelSandboxes().tear_down(scene.inside.path, UNDERLAY)
        assert state(scene.inside) == before


def test_not_primary_means_no_host_path(scene: Scene) -> None:
    rules = scene.inside.ip("rule")
    set_up(scene, primary=False)
    assert scene.inside.ip("rule") == rules
    assert "mtu 1450" in scene.inside.ip("route show dev eth0")
    assert str(UNDERLAY) not in scene.inside.ip("route show table all")


def test_what_others_added_stays(scene: Scene) -> None:
    scene.inside.ip("rule add pref 50 from 10.32.0.2 lookup 77")
    scene.inside.ip("route add 203.0.113.0/24 dev eth1 table 77")
    before = scene.inside.ip("rule")
    set_up(scene)
    KernelSandboxes().tear_down(scene.inside.path, UNDERLAY)
    assert scene.inside.ip("rule") == before
    assert "203.0.113.0/24" in scene.inside.ip("route show table 77")


def test_another_underlay_address_replaces_the_old_one(scene: Scene) -> None:
    set_up(scene)
    set_up(scene, underlay=IPv4Address("192.0.2.77"))
    everything = scene.inside.ip("rule") + scene.inside.ip("route show table all")
    assert f"{UNDERLAY} " not in everything
    assert "local 192.0.2.77 dev lo" in everything


def test_another_interface_takes_the_host_path_over(scene: Scene) -> None:
    set_up(scene)
    second = endpoint(2, scene.inside)
    veth = dockerd.make_veth(scene.host, second)
    dockerd.move_in(scene.host, scene.inside, second, veth, name="eth2")
    other = replace(scene, first=second, veth=veth)
    set_up(other, primary=False)
    assert "dev eth0" in scene.route_to(PEER, "from", str(UNDERLAY))
    set_up(other)
    assert "dev eth2" in scene.route_to(PEER, "from", str(UNDERLAY))
    assert scene.inside.ip("route show table 20765").count("default") == 1
    dockerd.move_out(scene.host, scene.inside, scene.veth)
    assert "dev eth2" in scene.route_to(PEER, "from", str(UNDERLAY))
    assert scene.route_to(str(UNDERLAY), "from", PEER, "iif eth2").startswith("local")


def test_the_program_hangs_on_the_interface_and_is_replaced_in_place(
        scene: Scene, program: int) -> None:
    eth0 = scene.inside.ifindex("eth0")
    set_up(scene, fd=program)
    set_up(scene, fd=program)
    assert filters.attached_ingress(eth0, scene.inside.path) == "slim_to_container"
    shown = scene.inside.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    assert shown.count("slim_to_container") == 1
    assert "direct-action" in shown
    dockerd.move_out(scene.host, scene.inside, scene.veth)
    assert filters.attached_ingress(eth0, scene.host.path) is None


def test_filters_of_others_stay(make_netns: MakeNetns, program: int) -> None:
    host, other = make_netns("host"), make_netns("other")
    join(host, "up0", other, "up1")
    up0 = host.ifindex("up0")
    assert filters.attach_ingress(up0, program, "ours", host.path) is True
    assert filters.attach_ingress(up0, program, "ours", host.path) is False
    filters.detach_ingress(up0, host.path, remove_qdisc=True)
    filters.detach_ingress(up0, host.path, remove_qdisc=True)
    assert "clsact" not in host.run("tc", "qdisc", "show", "dev", "up0").stdout

    host.run("tc", "qdisc", "add", "dev", "up0", "clsact")
    host.run("tc", "filter", "add", "dev", "up0", "egress", "bpf", "bytecode", "1,6 0 0 0")
    assert filters.attach_ingress(up0, program, "ours", host.path) is False
    filters.detach_ingress(up0, host.path, remove_qdisc=True)
    assert "bpf" in host.run("tc", "filter", "show", "dev", "up0", "egress").stdout
    assert filters.attached_ingress(up0, host.path) is None
    filters.detach_ingress(9999, host.path)


def test_refusals_name_what_is_missing(scene: Scene, tmp_path: os.PathLike[str]) -> None:
    absent = f"{tmp_path}/absent"
    sandboxes = KernelSandboxes()
    assert sandboxes.cookie(absent) is None
    sandboxes.tear_down(absent, UNDERLAY)
    empty = f"{tmp_path}/empty"
    with open(empty, "w", encoding="ascii"):
        pass
    assert sandboxes.cookie(empty) is None
    with pytest.raises(netns.NamespaceAbsent, match="nothing is mounted"):
        sandboxes.set_up(empty, scene.first, scene.veth, underlay=UNDERLAY, overlay_mtu=1450,
                         primary=True)
    with pytest.raises(LinkError, match="the host's own"):
        sandboxes.set_up("/proc/self/ns/net", scene.first, scene.veth, underlay=UNDERLAY,
                         overlay_mtu=1450, primary=True)
    dockerd.move_out(scene.host, scene.inside, scene.veth)
    with pytest.raises(LinkError, match="not inside"):
        set_up(scene)


def test_the_path_of_a_key_may_be_under_another_root(scene: Scene) -> None:
    sandboxes = KernelSandboxes(path_of=lambda key: key.replace("/var/run/docker", "/run"))
    key = scene.inside.path.replace("/run", "/var/run/docker", 1)
    assert sandboxes.cookie(key) == scene.inside.cookie


def test_no_thread_but_the_visitor_moves(make_sandbox: MakeNetns) -> None:
    inside = make_sandbox("c")
    mine = netns.current_cookie()
    before = threading.active_count()
    seen: list[int] = []

    def fail() -> None:
        seen.append(netns.current_cookie())
        raise KeyError("from inside")

    with pytest.raises(KeyError, match="from inside"):
        inside.call(fail)
    assert seen == [inside.cookie]
    assert netns.current_cookie() == mine != inside.cookie
    assert threading.active_count() == before
