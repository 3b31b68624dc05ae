"""Tests veth pairs and the VXLAN device, in namespaces that stand for hosts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from driver.errors import LinkError
from driver.link.netlink.names import VXLAN_NAME, container_name, host_name, is_host_name
from driver.link.pairs.veth import Veths, probe_kind
from driver.link.underlay import vxlan
from driver.model import EndpointId, HostId
from tests.support.world.netns import Netns

ENDPOINT = EndpointId("0123456789abcdef" * 4)
OTHER = EndpointId("0123456789a" + "f" * 53)  # ENDPOINT's first 11 digits
MAC = bytes.fromhex("02420a200002")

MakeNetns = Callable[[str], Netns]


def links(netns: Netns) -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in json.loads(netns.ip("-d -j link show"))}


def test_pair_has_what_dockerd_and_the_datapath_need(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    veth = host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1400))
    found = links(host)
    outer, inner = found[host_name(ENDPOINT)], found[container_name(ENDPOINT)]
    assert (veth.host_name, veth.container_name) == ("sl0123456789a", "sc0123456789a")
    assert outer["ifindex"] == veth.host_ifindex
    assert outer["mtu"] == inner["mtu"] == 1400
    assert inner["address"] == "02:42:0a:20:00:02"
    assert "NOARP" in inner["flags"]
    assert "UP" not in inner["flags"]  # dockerd brings it up
    assert "UP" in outer["flags"]
    assert outer["inet6_addr_gen_mode"] == "none"
    assert outer["ifalias"] == ENDPOINT


def test_mac_mtu_and_noarp_outlive_the_move(make_netns: MakeNetns, make_sandbox: MakeNetns) -> None:
    host, sandbox = make_netns("host"), make_sandbox("c")
    veth = host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1400))
    host.ip("link set", veth.container_name, "netns", sandbox.name)
    sandbox.ip("link set", veth.container_name, "name eth0")
    sandbox.ip("link set eth0 up")
    inner = links(sandbox)["eth0"]
    assert (inner["mtu"], inner["address"]) == (1400, "02:42:0a:20:00:02")
    assert "NOARP" in inner["flags"]
    assert host.ip("addr show dev", veth.host_name).count("inet") == 0


def test_create_twice_is_create_once(make_netns: MakeNetns, make_sandbox: MakeNetns) -> None:
    host, sandbox = make_netns("host"), make_sandbox("c")
    first = host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1400))
    assert host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1300)) == first
    assert links(host)[first.container_name]["mtu"] == 1300
    host.ip("link set", first.container_name, "netns", sandbox.name)
    assert host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1300)) == first
    assert host.call(Veths().list_veths) == {first.host_name: first}
    assert host.call(partial(Veths().get_veth, ENDPOINT)) == first


def test_delete_takes_both_ends_wherever_they_are(make_netns: MakeNetns,
                                                  make_sandbox: MakeNetns) -> None:
    host, sandbox = make_netns("host"), make_sandbox("c")
    veth = host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1400))
    host.ip("link set", veth.container_name, "netns", sandbox.name)
    host.call(partial(Veths().delete_veth, ENDPOINT))
    host.call(partial(Veths().delete_veth, ENDPOINT))
    assert set(links(host)) == set(links(sandbox)) == {"lo"}
    assert host.call(partial(Veths().get_veth, ENDPOINT)) is None
    assert host.call(Veths().list_veths) == {}


def test_nothing_is_left_when_it_fails(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    with pytest.raises(LinkError, match=r"(veth|netkit) pair sl0123456789a"):
        host.call(partial(Veths().create_veth, ENDPOINT, MAC, 20))  # below the least MTU
    assert set(links(host)) == {"lo"}
    multicast = bytes.fromhex("010000000001")
    with pytest.raises(LinkError):
        host.call(partial(Veths().create_veth, ENDPOINT, multicast, 1500))
    assert set(links(host)) == {"lo"}


def test_foreign_interfaces_of_our_name_are_refused(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    host.ip("link add", host_name(ENDPOINT), "type vxlan external dstport 19999")
    with pytest.raises(LinkError, match="no veth"):
        host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1500))
    assert host.call(Veths().list_veths) == {}
    host.ip("link del", host_name(ENDPOINT))
    host.call(partial(Veths().create_veth, ENDPOINT, MAC, 1500))
    with pytest.raises(LinkError, match=ENDPOINT):
        host.call(partial(Veths().create_veth, OTHER, MAC, 1500))
    assert host_name(ENDPOINT) in links(host)


def test_another_hosts_pairs_are_left_alone(make_netns: MakeNetns) -> None:
    """The alias names a pair's owner; a pair of an older driver, without a host, has none."""
    host = make_netns("host")
    ours, theirs = Veths(owner=HostId("a" * 32)), Veths(owner=HostId("b" * 32))
    veth = host.call(partial(theirs.create_veth, ENDPOINT, MAC, 1500))
    assert links(host)[veth.host_name]["ifalias"] == f"{ENDPOINT} {'b' * 32}"
    assert host.call(theirs.list_veths) == {veth.host_name: veth}
    assert host.call(ours.list_veths) == {}
    with pytest.raises(LinkError, match=f"belongs to host id {'b' * 32}"):
        host.call(partial(ours.create_veth, ENDPOINT, MAC, 1500))
    host.ip("link set", veth.host_name, "alias", ENDPOINT)
    assert host.call(ours.list_veths) == {veth.host_name: veth}
    assert host.call(partial(ours.create_veth, ENDPOINT, MAC, 1500)) == veth
    assert host.call(theirs.list_veths) == {}


def test_netkit_is_taken_where_the_kernel_has_it(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    expected = "netkit" if has_netkit(host) else "veth"
    assert host.call(partial(probe_kind, "auto")) == expected
    assert host.call(partial(probe_kind, "veth")) == "veth"
    if expected == "veth":
        with pytest.raises(LinkError, match="--pair-kind auto"):
            host.call(partial(probe_kind, "netkit"))
    assert set(links(host)) == {"lo"}


def test_many_learn_at_once_which_kind_there_is(make_netns: MakeNetns) -> None:
    """The first pair finds out which kind there is; several may be first at once."""
    host = make_netns("host")
    begin = threading.Barrier(8)

    def make(veths: Veths, number: int) -> str:
        def act() -> str:
            begin.wait(10)
            return veths.create_veth(EndpointId(f"{number:064x}"[::-1]), MAC, 1400).host_name

        return host.call(act)

    for rounds in range(5):
        veths = Veths()
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(partial(make, veths), range(1 + 8 * rounds, 9 + 8 * rounds)))
        assert set(made) <= set(host.call(veths.list_veths))


def has_netkit(host: Netns) -> bool:
    try:
        host.ip("link add netkit-one type netkit")
    except RuntimeError:
        return False
    host.ip("link del netkit-one")
    return True


def test_other_peoples_links_are_not_listed(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    host.ip("link add sleth0 type veth peer name slow0")
    assert host.call(Veths().list_veths) == {}
    assert not is_host_name("sl0123456789g")
    assert not is_host_name("sl0123456789")


def test_vxlan_carries_metadata_and_is_made_once(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    ifindex = host.call(partial(vxlan.create_vxlan, 14789, vxlan.overlay_mtu(1500)))
    device = links(host)[VXLAN_NAME]
    settings = device["linkinfo"]["info_data"]
    assert (device["ifindex"], device["mtu"], device["qdisc"]) == (ifindex, 1450, "noqueue")
    assert "UP" in device["flags"]
    assert settings["external"] is True
    assert settings["port"] == 14789
    assert settings.get("learning", False) is False
    assert host.ip("addr show dev", VXLAN_NAME).count("inet") == 0
    assert host.call(partial(vxlan.create_vxlan, 14789, 1450)) == ifindex
    assert host.call(partial(vxlan.create_vxlan, 14789, 1350)) == ifindex
    assert links(host)[VXLAN_NAME]["mtu"] == 1350
    assert host.call(partial(vxlan.create_vxlan, 14790, 1350)) != ifindex
    assert links(host)[VXLAN_NAME]["linkinfo"]["info_data"]["port"] == 14790
    host.call(vxlan.delete_vxlan)
    host.call(vxlan.delete_vxlan)
    assert set(links(host)) == {"lo"}


def test_vxlan_port_in_use_is_said_and_leaves_nothing(make_netns: MakeNetns) -> None:
    host = make_netns("host")
    host.ip("link add other type vxlan id 7 dstport 14789")
    host.ip("link set other up")
    with pytest.raises(LinkError, match="14789"):
        host.call(partial(vxlan.create_vxlan, 14789, 1450))
    assert set(links(host)) == {"lo", "other"}
