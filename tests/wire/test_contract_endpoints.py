"""Tests the contract's rows on endpoints, by their numbers."""

from __future__ import annotations

import pytest

from driver.errors import DatapathError
from tests.support.fakes.ports import World
from tests.support.world.client import Dockerd
from tests.wire.calls import EP, INTERFACE, NET, SANDBOX, WITH_ARGUMENTS, endpoint, join, network


def test_row_12_all_fields_given(dockerd: Dockerd, world: World) -> None:
    network(dockerd, IPv6Data=[{"AddressSpace": "slim-local", "Pool": "fd00:50::/64"}])
    answer = dockerd.ok("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=EP, Interface={
        "Address": "10.50.0.7/16", "AddressIPv6": "fd00:50::7/64",
        "MacAddress": "02:42:de:ad:be:ef"})
    assert not any((answer["Interface"] or {}).values())
    assert world.endpoints.live[EP].mac == bytes.fromhex("0242deadbeef")
    assert str(world.endpoints.live[EP].address6) == "fd00:50::7/64"


@pytest.mark.parametrize("address", [
    {"Address": "10.50.0.7/16"}, {"AddressIPv6": "fd00:50::7/64"}, {}])
def test_row_13_mac_is_chosen(dockerd: Dockerd, world: World, address: dict) -> None:
    network(dockerd)
    answer = dockerd.ok("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=EP,
                        Interface=address)
    assert set(answer["Interface"]) == {"MacAddress"}
    mac = bytes.fromhex(answer["Interface"]["MacAddress"].replace(":", ""))
    assert len(mac) == 6
    assert mac[0] & 0b11 == 0b10  # locally administered, unicast
    src = join(dockerd)["InterfaceName"]["SrcName"]
    assert world.links.macs["sl" + src.removeprefix("sc")] == mac


@pytest.mark.parametrize(("given", "wished", "result"), [
    ("02:42:de:ad:be:ef", "AkLerb7v", "0242deadbeef"),
    ("02:42:de:ad:be:ef", "AkIAAAAB", "0242deadbeef"),
    ("", "AkLerb7v", "0242deadbeef")])
def test_row_14_base64_mac(dockerd: Dockerd, world: World, given: str, wished: str,
                           result: str) -> None:
    network(dockerd)
    answer = dockerd.ok("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=EP,
                        Interface={**INTERFACE, "MacAddress": given},
                        Options={"com.docker.network.endpoint.macaddress": wished})
    assert world.endpoints.live[EP].mac == bytes.fromhex(result)
    assert bool(answer["Interface"].get("MacAddress")) is not bool(given)


def test_row_15_unknown_network(dockerd: Dockerd, world: World) -> None:
    reply = dockerd.call("NetworkDriver.CreateEndpoint",
                         **WITH_ARGUMENTS["NetworkDriver.CreateEndpoint"])
    assert NET[:12] in reply.error
    assert world.live() == World().live()


def test_row_16_join_without_sandbox_on_disk(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    name = join(dockerd)["InterfaceName"]
    assert name == {"SrcName": "sc" + EP[:11], "DstPrefix": "eth"}
    assert world.links.mtus["sl" + EP[:11]] == 1500
    assert world.finisher.live[EP].sandbox_key == SANDBOX


@pytest.mark.parametrize(("wish", "prefix"), [("web0", "web"), ("lan", "lan"), ("a1b2", "a1b")])
def test_row_16_wished_interface_name(dockerd: Dockerd, wish: str, prefix: str) -> None:
    network(dockerd)
    endpoint(dockerd, **{"com.docker.network.endpoint.ifname": wish})
    name = join(dockerd)["InterfaceName"]
    assert (name["DstPrefix"], name["DstName"]) == (prefix, wish)


def test_row_16_network_mtu(dockerd: Dockerd, world: World) -> None:
    network(dockerd, Options={"com.docker.network.generic": {
        "com.docker.network.driver.mtu": "1400"}})
    endpoint(dockerd)
    join(dockerd)
    assert world.links.mtus["sl" + EP[:11]] == 1400


def test_row_17_join_before_create_and_after_delete(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    empty = world.live()
    assert EP[:12] in dockerd.call("NetworkDriver.Join",
                                   **WITH_ARGUMENTS["NetworkDriver.Join"]).error
    endpoint(dockerd)
    dockerd.ok("NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
    assert EP[:12] in dockerd.call("NetworkDriver.Join",
                                   **WITH_ARGUMENTS["NetworkDriver.Join"]).error
    assert world.live() == empty


def test_row_18_join_twice(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    first = join(dockerd)
    before = world.live()
    assert join(dockerd) == first
    reply = dockerd.call("NetworkDriver.Join", NetworkID=NET, EndpointID=EP,
                         SandboxKey="/var/run/docker/netns/000000000000")
    assert SANDBOX in reply.error
    assert world.live() == before


def test_row_19_leave_without_join(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    before = world.live()
    dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
    dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
    assert world.live() == before
    world.faults.reset()
    world.faults.fail_at, world.faults.error = 3, DatapathError  # publish, in Join
    assert dockerd.call("NetworkDriver.Join", **WITH_ARGUMENTS["NetworkDriver.Join"]).error
    dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
    assert world.live() == before


@pytest.mark.parametrize("link_gone", [False, True])
def test_row_20_leave_then_delete(dockerd: Dockerd, world: World, link_gone: bool) -> None:
    network(dockerd)
    before = world.live()
    endpoint(dockerd)
    join(dockerd)
    dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
    assert world.live()["published"] == []
    assert world.live()["expected"] == {}
    if link_gone:
        world.links.live.clear()
    dockerd.ok("NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
    assert world.live() == before


@pytest.mark.parametrize("internal", [False, True])
def test_row_21_no_gateway(dockerd: Dockerd, world: World, internal: bool) -> None:
    network(dockerd, Options={"com.docker.network.internal": internal})
    assert world.networks.live[NET].internal is internal
    endpoint(dockerd)
    answer = join(dockerd)
    assert not {"Gateway", "GatewayIPv6", "StaticRoutes", "DisableGatewayService"} & set(answer)


def test_row_22_operational(dockerd: Dockerd) -> None:
    network(dockerd)
    assert dockerd.ok("NetworkDriver.EndpointOperInfo", NetworkID=NET,
                      EndpointID=EP) == {"Value": {}}
    endpoint(dockerd)
    value = dockerd.ok("NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=EP)["Value"]
    assert value["slim.mac"] == "02:42:0a:32:00:07"


def test_row_23_external_connectivity_changes_nothing(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    join(dockerd)
    before = world.live()
    ports = {"com.docker.network.portmap": [
        {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}]}
    program = {"NetworkID": NET, "EndpointID": EP, "Options": ports}
    for method, fields in (("Revoke", {}), ("Program", ports), ("Program", ports), ("Revoke", {})):
        assert dockerd.ok(f"NetworkDriver.{method}ExternalConnectivity",
                          **{**program, "Options": fields}) == {}
    assert world.live() == before
