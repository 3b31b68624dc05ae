"""Tests rows 44-49, 56 and 57 of the plugin contract's checklist on a real dockerd.

Here are all options, and starts that fail; test_docker.py has what users do first, and row 45's
fifty starts at once.  The `hosts` fixture checks after each test that nothing is left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from tests.lab.conftest import BUSYBOX, CALL, SERVE, TOOLS, difference, wait_for_none
from tests.lab.docker.test_docker import (
    SUBNET,
    address_of,
    call,
    check_views,
    create_network,
    ping,
    start,
)
from tests.lab.docker.test_names import wait_for
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import CommandFailed, Host, Lab
from tests.lab.rig.snapshot import host_state, store_keys
from tests.support.run.wait import wait_until

pytestmark = every_docker

SUBNET6 = "fd00:32::/64"
V6 = ("--ipv6", "--subnet", SUBNET6)


def create(host: Host, name: str, *options: str, ipam: str = "slim", driver: str = "slim") -> None:
    host.docker("network", "create", "-d", driver, "--ipam-driver", ipam, *options, name)


def addresses(host: Host, container: str) -> dict[str, list[str]]:
    """Return each interface's addresses, IPv4 first, without loopback and link-local ones."""
    links = json.loads(host.docker("exec", container, "ip", "-j", "addr", "show"))
    return {link["ifname"]: [a["local"] for a in link["addr_info"] if a["scope"] == "global"]
            for link in links if link["ifname"] != "lo"}


def default_device(host: Host, container: str) -> str:
    """Return the interface of the default route; "" if there is none."""
    routes = json.loads(host.docker("exec", container, "ip", "-j", "route", "show", "default"))
    return str(routes[0]["dev"]) if routes else ""


# ------------------------------------------------------------------------------- networks
@feature("networks: subnet, range, gateway, auxiliary addresses, options")
def test_row_44_every_option_of_a_network(lab: Lab, h1: Host, h2: Host) -> None:
    keys = store_keys(lab)
    options = ("--subnet", SUBNET, "--ip-range", "10.32.7.0/30", "--gateway", "10.32.0.9",
               "--aux-address", "printer=10.32.7.3", *V6, "--ipam-opt", "com.example.a=b",
               "-o", "com.docker.network.driver.mtu=1400", "-o", "com.example.c=d")
    for host in (h1, h2):
        create(host, "app", *options)
        made = json.loads(host.docker("network", "inspect", "app"))[0]
        assert made["EnableIPv6"]
        assert made["Options"]["com.example.c"] == "d"
        assert made["IPAM"]["Options"] == {"com.example.a": "b"}
        v4, v6 = made["IPAM"]["Config"]
        assert v4 == {"Subnet": SUBNET, "IPRange": "10.32.7.0/30", "Gateway": "10.32.0.9",
                      "AuxiliaryAddresses": {"printer": "10.32.7.3"}}
        assert v6["Subnet"] == SUBNET6

    at = [(h1, "alice"), (h2, "bob"), (h2, "carol")]
    given = [start(host, name, *SERVE) for host, name in at]
    assert sorted(given) == ["10.32.7.0", "10.32.7.1", "10.32.7.2"], "the fourth is aux"
    with pytest.raises(CommandFailed, match="has no free address"):
        start(h1, "dave")
    for host, name in at:
        v6_address = addresses(host, name)["eth0"][1]
        assert IPv6Address(v6_address) in IPv6Network(SUBNET6)
        assert " mtu 1400 " in host.docker("exec", name, "ip", "link", "show", "eth0")
    check_views(call(h1, "alice", given[1]), client=given[0], server=given[1])
    with pytest.raises(CommandFailed, match=r"10\.32\.0\.9 is the network's gateway"):
        start(h1, "erin", options=("--ip", "10.32.0.9"))
    h1.docker("rm", "dave", "erin")

    for host, name in at:
        host.docker("rm", "-f", name)
    for host in (h1, h2):
        host.docker("network", "rm", "app")
    wait_for_none(lambda: ", ".join(sorted(store_keys(lab) ^ keys)), "changed in etcd")


@feature("`--internal`")
def test_row_44_internal(h1: Host) -> None:
    """It has no way out and no published ports; neither family has a default route."""
    create(h1, "app", "--internal", "--subnet", SUBNET, *V6)
    start(h1, "alice", options=("-p", "8000:7000"))
    assert list(addresses(h1, "alice")) == ["eth0"]
    for family in ("-4", "-6"):
        routes = json.loads(h1.docker("exec", "alice", "ip", "-j", family, "route"))
        assert all(route["dst"] != "default" for route in routes)


# ------------------------------------------------------------------------------ life cycle
@feature("`docker stop`, `start`, `restart`")
def test_row_45_stop_and_start(h1: Host, h2: Host) -> None:
    """A stopped container holds no address; started again, it has one and works."""
    create_network([h1, h2])
    before = host_state(h1)
    start(h1, "alice", *SERVE)
    b = start(h2, "bob")
    for _ in range(2):
        h1.docker("stop", "-t", "2", "alice")
        wait_until(lambda: host_state(h1).links == before.links, 10, "its link to be removed")
        h1.docker("start", "alice")
        a = address_of(h1, "alice")
        check_views(call(h2, "bob", a), client=b, server=a)


# ----------------------------------------------------------------------------- chosen values
@feature("`--ip`, `--ip6`, `--mac-address`")
def test_row_46_addresses_and_mac_are_honoured_and_released(h1: Host, h2: Host) -> None:
    for host in (h1, h2):
        create(host, "app", "--subnet", SUBNET, *V6)
    mac = "02:42:0a:20:00:63"
    chosen = ("--ip", "10.32.0.99", "--ip6", "fd00:32::99")
    start(h1, "alice", *SERVE, options=(*chosen, "--mac-address", mac))
    assert addresses(h1, "alice")["eth0"] == ["10.32.0.99", "fd00:32::99"]
    assert mac in h1.docker("exec", "alice", "ip", "link", "show", "eth0")
    start(h2, "bob")
    ping(h2, "bob", "10.32.0.99")
    ping(h2, "bob", "fd00:32::99")
    for option in (chosen[:2], chosen[2:]):
        with pytest.raises(CommandFailed, match=option[1].replace(".", r"\.")):
            start(h2, "carol", options=option)
        h2.docker("rm", "carol")
    h1.docker("rm", "-f", "alice")
    start(h2, "carol", *SERVE, options=chosen)
    assert addresses(h2, "carol")["eth0"] == ["10.32.0.99", "fd00:32::99"]


@feature("TCP takes the host path, from a container's first connection on")
@pytest.mark.parametrize("listens", ["::", "the address"])
def test_tcp_by_ipv6_takes_the_host_path(h1: Host, h2: Host, listens: str) -> None:
    """A listener that is bound to an IPv6 address has IPV6_V6ONLY for the kernel."""
    for host in (h1, h2):
        create(host, "app", "--subnet", SUBNET, *V6)
    start(h1, "alice")
    start(h2, "bob", *SERVE, "::" if listens == "::" else "fd00:32::99",
          options=("--ip6", "fd00:32::99"))
    (_, alice), (_, bob) = addresses(h1, "alice")["eth0"], addresses(h2, "bob")["eth0"]
    ping(h1, "alice", bob)  # h1 knows bob, and h2 alice
    before = h1.counters()["connected"], h2.counters()["accepted"]
    check_views(call(h1, "alice", bob), client=alice, server=bob)
    assert (h1.counters()["connected"], h2.counters()["accepted"]) == (before[0] + 1, before[1] + 1)


@feature("IPv6 switched off in a container")
def test_row_46_ipv6_switched_off_in_the_container(h1: Host, h2: Host) -> None:
    for host in (h1, h2):
        create(host, "app", "--subnet", SUBNET, *V6)
    b = start(h2, "bob", *SERVE)
    a = start(h1, "alice", options=("--sysctl", "net.ipv6.conf.all.disable_ipv6=1",
                                    "--ip6", "fd00:32::1:0:77"))
    check_views(call(h1, "alice", b), client=a, server=b)
    h1.docker("rm", "-f", "alice")
    start(h2, "carol", options=("--ip6", "fd00:32::1:0:77"))
    assert "fd00:32::1:0:77" in addresses(h2, "carol")["eth0"]


# ------------------------------------------------------------------------ connect, disconnect
@feature("a container on slim and on a bridge network")
def test_row_47_slim_and_bridge(h1: Host, h2: Host) -> None:
    """docker_gwbridge is the way out as long as no other network is."""
    create_network([h1, h2])
    a, b = start(h1, "alice", *SERVE), start(h2, "bob")
    assert list(addresses(h1, "alice")) == ["eth0", "eth1"]
    assert default_device(h1, "alice") == "eth1"
    way_out = addresses(h1, "alice")["eth1"]
    for _ in range(2):
        h1.docker("network", "connect", "bridge", "alice")
        now = addresses(h1, "alice")
        on_bridge = address_of(h1, "alice", "bridge")
        assert sorted(now.values()) == sorted([[a], [on_bridge]]), "docker_gwbridge is left"
        assert now[default_device(h1, "alice")] == [on_bridge]
        check_views(call(h2, "bob", a), client=b, server=a)
        h1.docker("network", "disconnect", "bridge", "alice")
        now = addresses(h1, "alice")
        assert len(now) == 2
        assert IPv4Address(now[default_device(h1, "alice")][0]) in IPv4Network(
            f"{way_out[0]}/16", strict=False)
        check_views(call(h2, "bob", a), client=b, server=a)


@feature("a container on several slim networks")
def test_row_47_two_slim_networks_running_and_stopped(h1: Host, h2: Host) -> None:
    for name, subnet in (("app", SUBNET), ("other", "10.33.0.0/16")):
        create_network([h1, h2], name, subnet)
    start(h1, "alice", *SERVE)
    clients = {name: start(h2, f"on-{name}", network=name) for name in ("app", "other")}

    def reached_on(*names: str) -> None:
        # A disconnected interface has no address, and goes 0.3 s later (docs/links.md).
        wait_until(lambda: all(addresses(h1, "alice").values()), 10, "the interface goes")
        found = addresses(h1, "alice")
        assert sorted(found[link][0] for link in found if link != default_device(h1, "alice")) == \
            sorted(address_of(h1, "alice", name) for name in names)
        for name in names:
            server = address_of(h1, "alice", name)
            check_views(call(h2, f"on-{name}", server), client=clients[name], server=server)

    h1.docker("network", "connect", "other", "alice")
    reached_on("app", "other")
    h1.docker("restart", "-t", "2", "alice")
    reached_on("app", "other")
    h1.docker("network", "disconnect", "app", "alice")  # the one that carried the host path
    reached_on("other")
    h1.docker("stop", "-t", "2", "alice")
    h1.docker("network", "connect", "app", "alice")
    h1.docker("start", "alice")
    reached_on("app", "other")
    h1.docker("stop", "-t", "2", "alice")
    h1.docker("network", "disconnect", "other", "alice")
    h1.docker("start", "alice")
    reached_on("app")


@feature("`docker network connect`, `disconnect` (also `-f`)")
def test_row_47_forced_disconnect(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    h1.docker("run", "-d", "--init", "--name", "alice", BUSYBOX, "sleep", "infinity")
    before = host_state(h1)
    h1.docker("network", "connect", "--ip", "10.32.0.44", "app", "alice")
    a = address_of(h1, "alice")
    h1.docker("network", "disconnect", "-f", "app", "alice")
    wait_for_none(partial(difference, h1, before), "left on h1")
    assert start(h2, "bob", options=("--ip", a)) == a


# ------------------------------------------------------------------------------------ ports
UDP_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 7000))
while True:
    data, peer = s.recvfrom(100)
    s.sendto(data, peer)
"""
UDP_ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.2)
for _ in range(25):
    s.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
    try:
        sys.exit(s.recv(100) != b"hello")
    except (TimeoutError, ConnectionRefusedError):
        pass
sys.exit("no answer")
"""


@feature("the way out, and published ports")
def test_row_48_published_ports(h1: Host, h2: Host) -> None:
    """docker_gwbridge publishes them, so `docker port` shows them as on a bridge network."""
    create_network([h1])
    start(h1, "alice", *SERVE, options=(
        "-p", "8000:7000", "-p", "8100-8101:7000-7001", "-p", f"{h1.address}:8200:7000",
        "-p", "127.0.0.1:8300:7000", "-p", "7000"))
    ports = {line for line in h1.docker("port", "alice", "7000/tcp").splitlines()
             if not line.startswith("::")}
    numbers = {int(line.rpartition(":")[2]) for line in ports}
    (ephemeral,) = numbers - {8000, 8100, 8200, 8300}
    for port in (8000, 8100, 8200, ephemeral):
        seen = json.loads(h2.docker("run", "--rm", TOOLS, *CALL, str(h1.address), str(port)))
        assert seen["rounds"] == 10
    with pytest.raises(CommandFailed, match="ConnectionRefused"):
        h2.docker("run", "--rm", TOOLS, *CALL, "--retry-s", "0", str(h1.address), "8300")
    h1.docker("run", "--rm", "--network", "host", TOOLS, *CALL, "127.0.0.1", "8300")

    start(h1, "udp", "python3", "-c", UDP_ECHO, options=("-p", "8000:7000/udp"))
    h2.docker("run", "--rm", TOOLS, "python3", "-c", UDP_ASK, str(h1.address), "8000")
    h1.docker("rm", "-f", "alice")
    with pytest.raises(CommandFailed, match="ConnectionRefused"):
        h2.docker("run", "--rm", TOOLS, *CALL, "--retry-s", "0", str(h1.address), "8000")


# --------------------------------------------------------------------------- failed starts
@pytest.fixture
def no_etcd(lab: Lab) -> Iterator[Lab]:
    """A lab whose etcd the test stops; it is started again afterwards, whatever happened."""
    yield lab
    lab.stop_etcd()
    lab.start_etcd()


@feature("a start that fails says why and leaves nothing")
def test_row_49_requests_that_are_wrong(h1: Host) -> None:
    before = host_state(h1)
    create_network([h1])
    for options, text in (
            (("-o", "com.docker.network.driver.mtu=12"), "mtu='12'"),
            (("-o", "slim.unheard=of"), r"slim\.unheard"),
            (("--subnet", "10.32.8.0/24"), r"overlaps 10\.32\.0\.0/16")):
        subnet = () if "--subnet" in options else ("--subnet", "10.40.0.0/24")
        with pytest.raises(CommandFailed, match=text):
            create(h1, "wrong", *subnet, *options)
    with pytest.raises(CommandFailed, match="01:00:5e"):
        start(h1, "alice", options=("--mac-address", "01:00:5e:00:00:01"))
    h1.docker("rm", "alice")
    # The pool and name of a refused network are free.
    create(h1, "wrong", "--subnet", "10.40.0.0/24")
    h1.docker("network", "rm", "app", "wrong")
    wait_for_none(partial(difference, h1, before), "left on h1")


@feature("a start that fails says why and leaves nothing")
def test_row_49_exhausted_pool(h1: Host, h2: Host) -> None:
    create_network([h1, h2], subnet="10.34.0.0/29")  # 8 - network, broadcast, gateway = 5
    for number in range(5):
        start(h1, f"h1-{number}", image=BUSYBOX)
    before = host_state(h2)
    for host in (h1, h2):
        with pytest.raises(CommandFailed, match=r"10\.34\.0\.0/29 has no free address"):
            start(host, "one-more", image=BUSYBOX)
    wait_until(lambda: host_state(h2).links == before.links, 10, "no link is left")
    h1.docker("rm", "-f", "h1-3")
    h2.docker("start", "one-more")  # the second start works
    assert IPv4Address(address_of(h2, "one-more")) in IPv4Network("10.34.0.0/29")


@feature("etcd away: containers go on, commands fail clearly")
def test_row_49_stopped_etcd(no_etcd: Lab, h1: Host, h2: Host) -> None:
    """RequestPool, RequestAddress, CreateNetwork and CreateEndpoint fail with a clear text."""
    create_network([h1, h2])
    create(h1, "by-docker", "--subnet", "10.41.0.0/24", ipam="default")
    a, b = start(h1, "alice", *SERVE), start(h2, "bob", *SERVE)
    call(h1, "alice", b)
    wait_for(h1, "alice", "bob", b)
    before = host_state(h1)
    no_etcd.stop_etcd()
    clear = "remote: .*etcd"
    for ipam in ("slim", "default"):
        with pytest.raises(CommandFailed, match=clear):
            create(h1, "late", "--subnet", "10.42.0.0/24", ipam=ipam)
    for network in ("app", "by-docker"):
        with pytest.raises(CommandFailed, match=clear):
            start(h1, f"late-{network}", *SERVE, network=network)
    wait_until(lambda: host_state(h1).links == before.links, 10, "no link is left")
    assert host_state(h1).map_entries == before.map_entries
    # Running containers go on.  The fixture checks that what is removed now is cleaned up later.
    check_views(call(h1, "alice", b), client=a, server=b)
    wait_for(h1, "alice", "bob", b)
    h2.docker("rm", "-f", "bob")
    no_etcd.start_etcd()
    for network in ("app", "by-docker"):
        h1.docker("start", f"late-{network}")
    check_views(call(h1, "alice", address_of(h1, "late-app")), client=a,
                server=address_of(h1, "late-app"))


# --------------------------------------------------------------------------- IPAM of others
@feature("slim's addresses on bridge and macvlan networks")
@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_row_56_slim_as_ipam_of_another_driver(driver: str, h1: Host, h2: Host) -> None:
    """Two hosts share only the pool; their containers' addresses differ."""
    options = ("-o", "parent=eth0") if driver == "macvlan" else ()
    for host in (h1, h2):
        create(host, "other", "--subnet", "10.43.0.0/24", *options, driver=driver)
    a, near = start(h1, "alice", *SERVE, network="other"), start(h1, "near", network="other")
    far = start(h2, "far", network="other")
    assert len({a, near, far}) == 3
    ping(h1, "near", a)
    check_views(call(h1, "near", a), client=near, server=a)
    if driver == "macvlan":
        check_views(call(h2, "far", a), client=far, server=a)


@feature("slim networks with Docker's addresses, or none")
def test_row_56_slim_with_dockers_ipam(h1: Host) -> None:
    create(h1, "app", "--subnet", SUBNET, ipam="default")
    a, b = start(h1, "alice", *SERVE), start(h1, "bob")
    ping(h1, "bob", a)
    check_views(call(h1, "bob", a), client=b, server=a)


@feature("slim networks with Docker's addresses, or none")
def test_row_56_slim_with_null_ipam(h1: Host) -> None:
    """No IPAM assigns addresses, so there are none; the way out works."""
    create(h1, "app", ipam="null")
    start(h1, "alice")
    assert addresses(h1, "alice")["eth0"] == []
    h1.docker("exec", "alice", "ping", "-c", "1", "-W", "2", str(h1.address))


# --------------------------------------------------------------------- inside the container
@feature("names, `/etc/hosts`, MTU and MAC inside the container")
def test_row_57_inside_the_container(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    a = start(h1, "alice", *SERVE, options=("--hostname", "wonder"))
    b = start(h1, "bob", options=("--network-alias", "builder"))
    inspected = json.loads(h1.docker("inspect", "alice"))[0]["NetworkSettings"]["Networks"]["app"]
    link, = json.loads(h1.docker("exec", "alice", "ip", "-j", "link", "show", "eth0"))
    underlay, = json.loads(h1.exec("ip", "-j", "link", "show", "eth0"))
    assert link["address"] == inspected["MacAddress"]
    assert link["mtu"] == underlay["mtu"]
    assert "NOARP" in link["flags"]
    connected, = json.loads(h1.docker("exec", "alice", "ip", "-j", "route", "show", SUBNET))
    assert connected["prefsrc"] == a
    mtu = [int(m["mtu"]) for m in connected.get("metrics", [])]
    assert mtu == [underlay["mtu"] - 50], "VXLAN's headers"
    assert default_device(h1, "alice") == "eth1"

    assert "nameserver 127.0.0.11" in h1.docker("exec", "alice", "cat", "/etc/resolv.conf")
    hosts = h1.docker("exec", "alice", "cat", "/etc/hosts").split()
    # Docker 28 writes every address that came from an IPAM plugin as an IPv4-mapped one.
    assert hosts[hosts.index("wonder") - 1] in (a, f"::ffff:{a}")
    assert call(h1, "alice", "wonder").server_local == [a, 7000]
    for name in ("bob", "builder"):
        ping(h1, "alice", name)
    check_views(call(h1, "bob", "alice"), client=b, server=a)
