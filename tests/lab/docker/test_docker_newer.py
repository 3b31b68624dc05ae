"""Tests what only Docker releases after 20.10 can do.

They can start a container on several networks, name interfaces, choose the gateway, and make
networks without IPv4.  The `hosts` fixture checks after each test that nothing is left.
"""

from __future__ import annotations

from tests.lab.conftest import SERVE, TOOLS
from tests.lab.docker.test_docker import address_of, call, check_views, create_network, ping, start
from tests.lab.docker.test_docker_rows import V6, addresses, create, default_device
from tests.lab.docker.test_names import WAIT_S, lookup
from tests.lab.rig.dockers import docker, feature
from tests.lab.rig.hosts import Host
from tests.support.run.wait import wait_until


@docker("26", "28")
@feature("several `--network` in one `docker run` (Docker 25 and later)")
def test_several_networks_in_one_run(h1: Host, h2: Host) -> None:
    create_network([h1, h2], "app")
    create_network([h1, h2], "other", "10.33.0.0/16")
    start(h1, "alice", *SERVE, options=("--network", "other"))
    for name in ("app", "other"):
        client, server = start(h2, f"on-{name}", network=name), address_of(h1, "alice", name)
        check_views(call(h2, f"on-{name}", server), client=client, server=server)


@docker("28")
@feature("an interface's name, its sysctls, `--gw-priority` (Docker 28)")
def test_interface_name_sysctl_and_gateway_priority(h1: Host) -> None:
    create_network([h1])
    create(h1, "way-out", "--subnet", "10.44.0.0/24", driver="bridge", ipam="default")
    option = "driver-opt=com.docker.network.endpoint"
    network = (f"name=app,{option}.ifname=app0,"
               f"{option}.sysctls=net.ipv4.conf.IFNAME.log_martians=1")
    h1.docker("run", "-d", "--init", "--name", "alice", "--network", network, TOOLS, *SERVE)
    a, b = address_of(h1, "alice"), start(h1, "bob")
    assert addresses(h1, "alice")["app0"] == [a]
    assert h1.docker("exec", "alice", "cat", "/proc/sys/net/ipv4/conf/app0/log_martians") == "1"
    check_views(call(h1, "bob", a), client=b, server=a)
    h1.docker("network", "connect", "--gw-priority", "1", "way-out", "alice")
    way_out = address_of(h1, "alice", "way-out")
    assert addresses(h1, "alice")[default_device(h1, "alice")] == [way_out]
    check_views(call(h1, "bob", a), client=b, server=a)


@docker("28")
@feature("networks without IPv4: `--ipv4=false` (Docker 28)")
def test_network_without_ipv4(h1: Host, h2: Host) -> None:
    for host in (h1, h2):
        create(host, "six", "--ipv4=false", *V6)
        start(host, f"on-{host.name}", *SERVE, network="six")
    (a,), (b,) = (addresses(host, f"on-{host.name}")["eth0"] for host in (h1, h2))
    assert a != b
    ping(h1, "on-h1", b)
    ping(h2, "on-h2", a)
    wait_until(lambda: lookup(h1, "on-h1", "on-h2", "AF_INET6") == [b], WAIT_S, "its name")
    assert lookup(h1, "on-h1", "on-h2", "AF_INET") == []
