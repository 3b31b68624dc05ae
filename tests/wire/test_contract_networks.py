"""Tests the contract's rows on networks, by their numbers, and what the driver may ignore."""

from __future__ import annotations

import pytest

from tests.support.fakes.ports import World
from tests.support.world.client import Dockerd
from tests.wire.calls import EP2, NET, SWARM_NET, V4, WITH_ARGUMENTS, endpoint, join, network


def test_row_08_same_id_other_pool(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    before = world.live()
    reply = dockerd.call("NetworkDriver.CreateNetwork", NetworkID=NET, IPv6Data=[],
                         IPv4Data=[{"AddressSpace": "slim-local", "Pool": "10.99.0.0/16"}])
    assert reply.status == 200
    assert NET[:12] in reply.error
    assert world.live() == before


@pytest.mark.parametrize("aux", [{}, {"AuxAddresses": {}}, {"AuxAddresses": None},
                                 {"AuxAddresses": {"printer": "10.50.0.5/16"}}])
def test_row_09_variants_of_create(dockerd: Dockerd, world: World, aux: dict) -> None:
    dockerd.ok("NetworkDriver.CreateNetwork", NetworkID=SWARM_NET, Options=None, IPv6Data=None,
               IPv4Data=[{"AddressSpace": "slim-local", "Pool": "10.50.0.0/16", **aux}])
    assert world.networks.live[SWARM_NET].subnets == ("10.50.0.0/16",)


@pytest.mark.parametrize("method", [
    "NetworkDriver.DeleteNetwork", "NetworkDriver.DeleteEndpoint", "NetworkDriver.Leave",
    "NetworkDriver.RevokeExternalConnectivity"])
def test_row_10_unknown_ids(dockerd: Dockerd, method: str) -> None:
    assert dockerd.ok(method, **WITH_ARGUMENTS[method]) == {}
    network(dockerd)
    assert dockerd.ok(method, **WITH_ARGUMENTS[method]) == {}


def test_row_11_delete_network_collects_endpoints(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    join(dockerd)
    endpoint(dockerd, EP2, "10.50.0.8/16")
    join(dockerd, EP2)
    dockerd.ok("NetworkDriver.DeleteNetwork", NetworkID=NET)
    assert world.live() == World().live()


def test_row_24_gateway_check(dockerd: Dockerd) -> None:
    answer = dockerd.ok("NetworkDriver.GwAllocCheck", Options={
        "com.docker.network.enable_ipv4": True, "com.docker.network.enable_ipv6": False})
    assert answer == {"SkipIPv4": False, "SkipIPv6": False}


@pytest.mark.parametrize("kind", [1, 2, 77, None])
def test_row_25_discovery(dockerd: Dockerd, kind: object) -> None:
    for method in ("DiscoverNew", "DiscoverDelete"):
        assert dockerd.ok(f"NetworkDriver.{method}", DiscoveryType=kind, DiscoveryData={
            "Address": "198.18.0.2", "BindAddress": "", "Self": True}) == {}


def test_row_26_allocate_echoes(dockerd: Dockerd) -> None:
    options = {"com.docker.network.driver.mtu": "1400", "other": "x"}
    first = dockerd.ok("NetworkDriver.AllocateNetwork", NetworkID=SWARM_NET, Options=options,
                       IPv4Data=V4, IPv6Data=None)["Options"]
    assert options.items() <= first.items()
    assert dockerd.ok("NetworkDriver.AllocateNetwork", NetworkID=SWARM_NET, Options=first,
                      IPv4Data=V4, IPv6Data=None)["Options"] == first
    assert "slim.typo" in dockerd.call("NetworkDriver.AllocateNetwork", NetworkID=SWARM_NET,
                                       Options={"slim.typo": "1"}, IPv4Data=V4).error


def test_row_27_allocate_v6_in_v4_data(dockerd: Dockerd) -> None:
    answer = dockerd.ok("NetworkDriver.AllocateNetwork", NetworkID=SWARM_NET, Options={"k": "v"},
                        IPv6Data=None, IPv4Data=[
                            {"AddressSpace": "", "Pool": "10.50.0.0/16"},
                            {"AddressSpace": "", "Pool": "fd00:50::/64"}])
    assert answer["Options"] == {"k": "v"}


def test_row_28_free_unknown(dockerd: Dockerd) -> None:
    assert dockerd.ok("NetworkDriver.FreeNetwork", NetworkID=SWARM_NET) == {}


def test_row_29_address_spaces(dockerd: Dockerd) -> None:
    answer = dockerd.raw("IpamDriver.GetDefaultAddressSpaces", b"").json
    assert answer == {"LocalDefaultAddressSpace": "slim-local",
                      "GlobalDefaultAddressSpace": "slim-global"}
