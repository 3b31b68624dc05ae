"""Tests what users do first, on one host and across two, with real dockerds and containers.

After every test the `hosts` fixture checks that nothing is left on any host or in etcd.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest

from tests.lab.conftest import BUSYBOX, CALL, SERVE, TOOLS, difference, wait_for_none
from tests.lab.rig.dockers import VERSIONS, docker, every_docker, feature
from tests.lab.rig.hosts import CommandFailed, Host
from tests.lab.rig.snapshot import host_state, store_keys

pytestmark = every_docker

SUBNET = "10.32.0.0/16"
VXLAN_PORT = 14789
PORT_MIN = 61000  # first endpoint port


def create_network(hosts: Sequence[Host], name: str = "app", subnet: str = SUBNET) -> None:
    """Create the network on each host; the same pool makes it one virtual network."""
    for host in hosts:
        host.docker("network", "create", "-d", "slim", "--ipam-driver", "slim",
                    "--subnet", subnet, name)


def start(host: Host, name: str, *command: str, image: str = TOOLS, network: str = "app",
          options: Sequence[str] = ()) -> str:
    """Run a container in the background and return its address on the network."""
    host.docker("run", "-d", "--init", "--name", name, "--network", network, *options, image,
                *(command or ("sleep", "infinity")))
    return address_of(host, name, network)


def address_of(host: Host, container: str, network: str = "app") -> str:
    settings = host.inspect(container)["NetworkSettings"]
    return str(settings["Networks"][network]["IPAddress"])


# Other hosts learn of a new endpoint a moment after `docker run` has ended, so ping first waits for
# one answer.
PING = """
    ping=/usr/local/bin/ping  # a busybox shell would take its own
    [ -x $ping ] || ping=ping
    for _ in $(seq 30); do $ping -c 1 -W 1 "$0" > /dev/null && break; sleep 0.1; done
    exec $ping -c 3 -i 0.1 -W 3 "$@" "$0"
"""


def ping(host: Host, container: str, address: str, *options: str) -> str:
    """Ping until one is answered, then three times; return what ping said of these."""
    return host.docker("exec", container, "sh", "-c", PING, address, *options)


def assert_unanswered(host: Host, container: str, address: str) -> None:
    """No ping is answered."""
    with pytest.raises(CommandFailed, match=r"100% packet loss|is unreachable"):
        host.docker("exec", container, "ping", "-c", "3", "-i", "0.1", "-W", "3", address)


@dataclass(frozen=True)
class Views:
    """Address and port of both ends, as each end's program sees them."""

    client_local: list[object]
    client_peer: list[object]
    server_local: list[object]
    server_peer: list[object]


def call(host: Host, container: str, address: str, *options: str) -> Views:
    """Connect from a container, and return what each end sees."""
    seen = json.loads(host.docker("exec", container, *CALL, address, "7000", *options))
    client, server = seen["client"], seen["server"]
    return Views(client["local"], client["peer"], server["local"], server["peer"])


def check_views(seen: Views, client: str, server: str) -> None:
    """Both programs see the virtual addresses, and the same ports."""
    print(seen)
    assert seen.client_peer == seen.server_local == [server, 7000]
    assert seen.client_local == seen.server_peer
    assert seen.client_local[0] == client


@feature("networks: subnet, range, gateway, auxiliary addresses, options")
def test_network_create_inspect_rm(h1: Host) -> None:
    h1.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", SUBNET,
              "--ip-range", "10.32.7.0/24", "--gateway", "10.32.0.1",
              "--aux-address", "printer=10.32.7.9", "app")
    network = json.loads(h1.docker("network", "inspect", "app"))[0]
    assert (network["Driver"], network["IPAM"]["Driver"]) == ("slim", "slim")
    assert network["IPAM"]["Config"][0]["Subnet"] == SUBNET
    h1.docker("network", "rm", "app")
    assert "app" not in host_state(h1).networks


@docker(VERSIONS[0])  # refused before Docker does anything: the same in all releases
@feature("networks: subnet, range, gateway, auxiliary addresses, options")
def test_a_subnet_that_the_host_has_is_refused(h1: Host) -> None:
    create_network([h1])
    start(h1, "alice", image=BUSYBOX)  # the first container brings docker_gwbridge
    before = store_keys(h1.lab)
    h1.exec("ip", "route", "add", "10.45.0.0/16", "dev", "eth0")
    try:
        for name, where in (("docker_gwbridge", "docker_gwbridge"), ("bridge", "docker0"),
                            ("", "eth0")):
            subnet = "10.45.7.0/24" if not name else json.loads(
                h1.docker("network", "inspect", name))[0]["IPAM"]["Config"][0]["Subnet"]
            for ipam in ("slim",) if name else ("slim", "default"):
                with pytest.raises(CommandFailed, match=f"{subnet} overlaps .* over {where}"):
                    h1.docker("network", "create", "-d", "slim", "--ipam-driver", ipam,
                              "--subnet", subnet, "wrong")
        assert "wrong" not in h1.docker("network", "ls")
        assert store_keys(h1.lab) == before
        # A network that exists is not checked again.
        h1.exec("ip", "route", "add", "10.32.128.0/20", "dev", "eth0")
        start(h1, "bob", image=BUSYBOX)
    finally:
        for subnet in ("10.45.0.0/16", "10.32.128.0/20"):
            h1.exec("sh", "-c", f"! ip route show {subnet} | grep . || ip route del {subnet}")


@feature("networks: subnet chosen by slim")
def test_pool_is_chosen_when_none_is_asked_for(h1: Host) -> None:
    subnets = set()
    for name in ("one", "two"):
        h1.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", name)
        network = json.loads(h1.docker("network", "inspect", name))[0]
        subnets.add(network["IPAM"]["Config"][0]["Subnet"])
    assert len(subnets) == 2


@feature("containers reach each other: on one host")
def test_two_containers_on_one_host(h1: Host) -> None:
    create_network([h1])
    a, b = start(h1, "alice", *SERVE), start(h1, "bob", *SERVE)
    assert "3 received" in ping(h1, "alice", b)
    check_views(call(h1, "alice", b), client=a, server=b)
    check_views(call(h1, "bob", a), client=b, server=a)


@feature("containers reach each other: on two hosts")
def test_two_containers_on_two_hosts(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    a, b = start(h1, "alice", *SERVE), start(h2, "bob", *SERVE)
    assert a != b
    ping(h1, "alice", b)
    ping(h2, "bob", a)
    check_views(call(h1, "alice", b), client=a, server=b)
    check_views(call(h2, "bob", a), client=b, server=a)


@feature("TCP takes the host path, from a container's first connection on")
def test_established_tcp_is_plain_tcp_between_the_hosts(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    a, b = start(h1, "alice", *SERVE), start(h2, "bob", *SERVE)
    call(h1, "alice", b)  # both hosts know both endpoints
    with h1.capture() as capture:
        check_views(call(h1, "alice", b, "--rounds", "50", "--size", "1000"), client=a, server=b)
    assert capture.packets(f"udp port {VXLAN_PORT}") == []
    plain = capture.packets(f"tcp and host {h1.address} and host {h2.address} "
                            f"and portrange {PORT_MIN}-65535")
    assert len(plain) >= 100, "50 rounds are at least a packet each way"


@feature("TCP takes the host path, from a container's first connection on")
def test_first_connection_of_a_container_takes_the_host_path(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    server = start(h2, "server", *SERVE)
    call_args = (*CALL, server, "7000")
    h1.docker("run", "--rm", "--network", "app", TOOLS, *call_args)  # h1 follows the network now
    with h1.capture() as capture:
        h1.docker("run", "--rm", "--network", "app", TOOLS, *call_args)
    assert capture.packets(f"udp port {VXLAN_PORT}") == []


@feature("ping, fragments too, takes the overlay path")
def test_ping_takes_the_overlay(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "alice")
    b = start(h2, "bob")
    with h1.capture() as capture:
        ping(h1, "alice", b)
        ping(h1, "alice", b, "-s", "4000")  # in fragments
    assert len(capture.packets(f"udp port {VXLAN_PORT}")) >= 12
    # The drivers may still ping a host of an earlier test; these two know that the other is alive.
    assert capture.packets(f"icmp and host {h1.address} and host {h2.address}") == []
    assert capture.packets(f"icmp and host {b}") == []


@feature("containers reach each other: on two hosts")
def test_connection_to_a_closed_port_is_refused(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "alice")
    b = start(h2, "bob")
    with pytest.raises(CommandFailed, match="ConnectionRefusedError"):
        call(h1, "alice", b, "--retry-s", "0")


@feature("`docker network connect`, `disconnect` (also `-f`)")
def test_connect_and_disconnect_a_running_container(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    # The server listens before it is connected to the network.
    h1.docker("run", "-d", "--init", "--name", "alice", TOOLS, *SERVE)
    h1.docker("network", "connect", "app", "alice")
    a, b = address_of(h1, "alice"), start(h2, "bob", *SERVE)
    check_views(call(h2, "bob", a), client=b, server=a)
    check_views(call(h1, "alice", b), client=a, server=b)
    h1.docker("network", "disconnect", "app", "alice")
    with pytest.raises(CommandFailed):
        ping(h2, "bob", a)
    h1.docker("network", "connect", "app", "alice")
    again = address_of(h1, "alice")
    check_views(call(h2, "bob", again), client=b, server=again)


@feature("`docker stop`, `start`, `restart`")
def test_restart_of_a_container(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "alice", *SERVE)
    b = start(h2, "bob", *SERVE)
    for _ in range(2):
        h1.docker("restart", "-t", "2", "alice")
        a = address_of(h1, "alice")
        check_views(call(h2, "bob", a), client=b, server=a)
        check_views(call(h1, "alice", b), client=a, server=b)


@feature("`--ip`, `--ip6`, `--mac-address`")
def test_a_static_address_and_mac(h1: Host) -> None:
    create_network([h1])
    mac = "02:42:0a:20:00:63"
    address = start(h1, "alice", options=("--ip", "10.32.0.99", "--mac-address", mac))
    assert address == "10.32.0.99"
    assert mac in h1.docker("exec", "alice", "ip", "link", "show", "eth0")
    with pytest.raises(CommandFailed, match=r"10\.32\.0\.99"):
        start(h1, "bob", options=("--ip", "10.32.0.99"))


@feature("networks are separate")
def test_two_networks_are_separate(h1: Host, h2: Host) -> None:
    create_network([h1, h2], "app")
    create_network([h1, h2], "other", "10.33.0.0/16")
    start(h1, "alice")
    b = start(h2, "bob", *SERVE, network="other")
    assert_unanswered(h1, "alice", b)
    with pytest.raises(CommandFailed):
        call(h1, "alice", b, "--retry-s", "0", "--timeout-s", "2")


@feature("networks are separate")
def test_one_subnet_twice_on_one_host(h1: Host) -> None:
    """One network has slim's IPAM, one Docker's: they never reach each other, on either path."""
    create_network([h1], "ours")
    h1.docker("network", "create", "-d", "slim", "--subnet", SUBNET, "dockers")
    clients = {}
    for number, network in enumerate(("ours", "dockers")):
        start(h1, f"server-{network}", *SERVE, network=network, options=("--ip", "10.32.0.9"))
        clients[network] = start(h1, f"client-{network}", network=network,
                                 options=("--ip", f"10.32.0.{20 + number}"))
    for network, address in clients.items():
        seen = call(h1, f"client-{network}", "10.32.0.9", "--retry-s", "10")
        check_views(seen, client=address, server="10.32.0.9")
        other = next(each for name, each in clients.items() if name != network)
        assert_unanswered(h1, f"client-{network}", other)
    h1.docker("rm", "-f", "server-ours")
    assert_unanswered(h1, "client-ours", "10.32.0.9")
    with pytest.raises(CommandFailed):
        call(h1, "client-ours", "10.32.0.9", "--retry-s", "0", "--timeout-s", "2")
    check_views(call(h1, "client-dockers", "10.32.0.9"), client=clients["dockers"],
                server="10.32.0.9")


@feature("`--internal`")
def test_internal_network_has_no_way_out(h1: Host) -> None:
    h1.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", SUBNET,
              "--internal", "app")
    a = start(h1, "alice", *SERVE)
    start(h1, "bob", *SERVE)
    check_views(call(h1, "bob", a), client=address_of(h1, "bob"), server=a)
    assert "default" not in h1.docker("exec", "alice", "ip", "route", "show")


@feature("the way out, and published ports")
def test_a_container_reaches_outside_and_publishes_ports(h1: Host, h2: Host) -> None:
    create_network([h1])
    start(h1, "alice", *SERVE, options=("-p", "8000:7000"))
    h1.docker("exec", "alice", "ping", "-c", "1", "-W", "2", str(h2.address))
    # From another host, through docker_gwbridge.
    h2.docker("run", "--rm", TOOLS, *CALL, str(h1.address), "8000")


def start_call_and_remove(each: int, h1: Host, h2: Host) -> None:
    """Start `each` containers at once on both hosts, call a server from all, and remove them."""
    create_network([h1, h2])
    server = start(h1, "server", *SERVE)
    names = [(host, f"{host.name}-{number}") for host in (h1, h2) for number in range(each)]
    with ThreadPoolExecutor(len(names)) as pool:
        addresses = list(pool.map(lambda at: start(*at, image=TOOLS), names))
    assert len({*addresses, server}) == len(names) + 1
    with ThreadPoolExecutor(4) as pool:
        views = pool.map(lambda at: call(*at, server), names)
        for address, seen in zip(addresses, views, strict=True):
            check_views(seen, client=address, server=server)
        list(pool.map(lambda at: at[0].docker("rm", "-f", at[1]), names))


@docker(VERSIONS[0])
@feature("many containers started at once")
def test_fifty_parallel_starts_and_removals(h1: Host, h2: Host) -> None:
    start_call_and_remove(25, h1, h2)


@feature("many containers started at once")
def test_twenty_parallel_starts_and_removals(h1: Host, h2: Host) -> None:
    start_call_and_remove(10, h1, h2)


@feature("removal leaves nothing")
def test_removal_leaves_nothing(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    before = [host_state(h1), host_state(h2)]
    start(h1, "alice", image=BUSYBOX)
    start(h2, "bob", image=BUSYBOX)
    assert host_state(h1).links != before[0].links, "a container has a link while it lives"
    h1.docker("rm", "-f", "alice")
    h2.docker("rm", "-f", "bob")
    for host, state in zip((h1, h2), before, strict=True):
        wait_for_none(partial(difference, host, state), f"left on {host.name}")


@feature("removal leaves nothing")
def test_network_in_use_is_not_removed(h1: Host) -> None:
    create_network([h1])
    start(h1, "alice", image=BUSYBOX)
    with pytest.raises(CommandFailed, match="active endpoints"):
        h1.docker("network", "rm", "app")
