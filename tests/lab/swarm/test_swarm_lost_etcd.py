"""Tests a swarm whose etcd loses all its data: the managers' common holds come back.

`nodes` checks after the test that nothing is left, in etcd too.
"""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from itertools import combinations
from typing import Any

import pytest

from driver.store.format import keys
from tests.lab.conftest import BUSYBOX, SERVE
from tests.lab.docker.test_docker import address_of, call, start
from tests.lab.rig.hosts import Host, Lab
from tests.lab.rig.plugged import (
    PLUGIN,
    create_network,
    create_service,
    published,
    task_containers,
    wait_running,
)
from tests.support.run.wait import wait_until

pytestmark = pytest.mark.timeout(400)
CLEAN_S = 60
SETTLED_S = 60
AUTOMATIC = ("--ipam-driver", PLUGIN)
# So small that an address that is wrongly free is soon assigned.
SMALL = (*AUTOMATIC, "--subnet", "10.40.0.0/27")


def shown(manager: Host, what: str, *names: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(manager.docker(what, "inspect", *names))
    return found


def requested(manager: Host) -> set[tuple[str, str]]:
    """Return (subnet, network id) and (subnet, address) of all networks and services in Docker."""
    found = set()
    names = manager.docker("network", "ls", "-q", "--filter", f"driver={PLUGIN}").split()
    subnets = {network["Id"]: network["IPAM"]["Config"][0]
               for network in shown(manager, "network", *names)}
    for network, config in subnets.items():
        found |= {(config["Subnet"], network), (config["Subnet"], config["Gateway"])}
    for service in shown(manager, "service", *manager.docker("service", "ls", "-q").split()):
        found |= {(subnets[vip["NetworkID"]]["Subnet"], str(ip_interface(vip["Addr"]).ip))
                  for vip in service["Endpoint"]["VirtualIPs"]}
    return found


def on_record(lab: Lab) -> set[tuple[str, str]]:
    """Return the same as managers hold it in etcd, with tasks' addresses, too."""
    found = set()
    for cidr in [keys.subnet_of(key) for key in lab.etcdctl(
            "get", "--prefix", "--keys-only", keys.SUBNETS).split()]:
        use = json.loads(lab.etcdctl("get", "--print-value-only", keys.subnet(cidr)))
        found |= {(cidr, network) for pool in use["pools"]
                  for network in pool["requests"].get("swarm", ())}
        values = lab.etcdctl("get", "--prefix", "--print-value-only", keys.addresses(cidr))
        found |= {(cidr, each["address"]) for each in map(json.loads, values.splitlines())
                  if "global" in each["holds"]}
    return found


def test_etcd_loses_what_a_swarm_holds(nodes: list[Host], plugged: Lab) -> None:
    manager, second, _ = nodes
    create_network(manager, "app", ipam=SMALL)
    create_network(manager, "first", ipam=AUTOMATIC)  # on no host, as it has no tasks
    for name in ("web", "db"):
        create_service(manager, name, "--replicas", "2", command=SERVE)
        wait_running(manager, name, 2)
    start(second, "client")
    wait_until(lambda: published(plugged).keys() == {"web", "db"}, SETTLED_S, "both are published")
    before = requested(manager)
    assert len(before) == 2 + 2 + 2
    assert before <= on_record(plugged)

    plugged.etcdctl("del", "--prefix", "/slim/")
    wait_until(lambda: before <= on_record(plugged), SETTLED_S, "all of it is on record again")
    assert call(second, "client", "web", "--retry-s", "10").client_peer[1] == 7000

    create_service(manager, "late", "--replicas", "9", image=BUSYBOX, command=("sleep", "9999"))
    create_network(manager, "last", ipam=AUTOMATIC)
    wait_running(manager, "late", 9)
    after = requested(manager)
    assert before < after
    given = [address for subnet, address in after if subnet == SMALL[-1] and "." in address]
    given += [address_of(host, container) for host in nodes for container in (
        *(each for name in ("web", "db", "late") for each in task_containers(host, name)),
        *(("client",) if host is second else ()))]
    assert len(given) == 1 + 3 + 2 + 2 + 9 + 1
    assert len(set(given)) == len(given), sorted(given)
    pools = {subnet for subnet, _ in after}
    assert len(pools) == 3
    for one, other in combinations(map(ip_network, pools), 2):
        assert not one.overlaps(other)
