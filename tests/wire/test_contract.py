"""The wire rows of the contract's checklist for the network half, by their numbers."""

from __future__ import annotations

import json
import re
import socket

import pytest

from driver.errors import DatapathError
from tests.support.client import Dockerd, UnixConnection
from tests.support.fakes import World
from tests.support.wait import wait_until

NET = "8c1f" * 16
SWARM_NET = "tk3xq0d6y2v9n1m4b7c8z5a6l"  # 25 base-36 digits
EP = "0123456789abcdef" * 4
EP2 = "fedcba9876543210" * 4
SANDBOX = "/var/run/docker/netns/4f0a1b2c3d4e"
V4 = [{"AddressSpace": "slim-local", "Pool": "10.50.0.0/16", "Gateway": "10.50.0.1/16",
       "AuxAddresses": {}}]
INTERFACE = {"Address": "10.50.0.7/16", "AddressIPv6": "", "MacAddress": ""}

WITH_ARGUMENTS = {
    "NetworkDriver.CreateNetwork": {"NetworkID": NET, "IPv4Data": V4, "IPv6Data": []},
    "NetworkDriver.AllocateNetwork": {"NetworkID": NET, "Options": {}, "IPv4Data": V4},
    "NetworkDriver.CreateEndpoint": {"NetworkID": NET, "EndpointID": EP, "Interface": INTERFACE},
    "NetworkDriver.EndpointOperInfo": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.Join": {"NetworkID": NET, "EndpointID": EP, "SandboxKey": SANDBOX},
    "NetworkDriver.ProgramExternalConnectivity": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.RevokeExternalConnectivity": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.Leave": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.DeleteEndpoint": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.DeleteNetwork": {"NetworkID": NET},
    "NetworkDriver.FreeNetwork": {"NetworkID": NET},
    "NetworkDriver.GwAllocCheck": {"Options": {}},
    "NetworkDriver.DiscoverNew": {"DiscoveryType": 1, "DiscoveryData": {}},
    "NetworkDriver.DiscoverDelete": {"DiscoveryType": 1, "DiscoveryData": {}},
    "IpamDriver.RequestPool": {"AddressSpace": "slim-local", "Pool": "10.50.0.0/16",
                               "SubPool": "", "Options": None, "V6": False},
    "IpamDriver.ReleasePool": {"PoolID": "slim-local/10.50.0.0/16"},
    "IpamDriver.RequestAddress": {"PoolID": "slim-local/10.50.0.0/16", "Address": "10.50.0.9",
                                  "Options": None},
    "IpamDriver.ReleaseAddress": {"PoolID": "slim-local/10.50.0.0/16", "Address": "10.50.0.9"},
}
WITHOUT_ARGUMENTS = ("Plugin.Activate", "NetworkDriver.GetCapabilities",
                     "IpamDriver.GetCapabilities", "IpamDriver.GetDefaultAddressSpaces")


def network(dockerd: Dockerd, **more: object) -> None:
    dockerd.ok("NetworkDriver.CreateNetwork",
               **{"NetworkID": NET, "Options": None, "IPv4Data": V4, "IPv6Data": [], **more})


def endpoint(dockerd: Dockerd, ep: str = EP, address: str = "10.50.0.7/16",
             **options: object) -> dict:
    return dockerd.ok("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=ep, Options=options,
                      Interface={**INTERFACE, "Address": address})


def join(dockerd: Dockerd, ep: str = EP, sandbox: str = SANDBOX) -> dict:
    return dockerd.ok("NetworkDriver.Join", NetworkID=NET, EndpointID=ep, SandboxKey=sandbox,
                      Options={})


def test_row_01_activate(dockerd: Dockerd) -> None:
    reply = dockerd.raw("Plugin.Activate", b"")
    assert (reply.status, reply.json) == (200, {"Implements": ["NetworkDriver", "IpamDriver"]})


@pytest.mark.parametrize("host", ["", "plugin.moby.localhost", "a_b:80"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_row_02_capabilities(dockerd: Dockerd, world: World, scope: str, host: str) -> None:
    world.faults.down = True  # rule 6: a failure here is remembered until dockerd restarts
    caller = Dockerd(dockerd.path, host)
    answer = caller.raw("NetworkDriver.GetCapabilities", b"")
    assert answer.status == 200
    assert answer.json == {"Scope": scope, "ConnectivityScope": scope, "GwAllocChecker": True}
    answer = caller.raw("IpamDriver.GetCapabilities", b"")
    assert answer.json == {"RequiresMACAddress": False, "RequiresRequestReplay": False}


@pytest.mark.parametrize("path", ["", "NetworkDriver.Nothing", "VolumeDriver.List",
                                  "NetworkDriver.Join/x", "../etc/passwd"])
def test_row_03_unknown_path(dockerd: Dockerd, path: str) -> None:
    reply = dockerd.raw(path, b"{}")
    assert reply.status == 404
    assert reply.error


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_row_03_only_post(dockerd: Dockerd, verb: str) -> None:
    reply = dockerd.raw("NetworkDriver.DeleteNetwork", b"", verb)
    assert reply.status == 405
    assert reply.error


@pytest.mark.parametrize("method", WITH_ARGUMENTS)
@pytest.mark.parametrize("body", [b"", b"\n"])
def test_row_04_empty_body(dockerd: Dockerd, world: World, method: str, body: bytes) -> None:
    network(dockerd)
    endpoint(dockerd)
    before = world.live()
    reply = dockerd.raw(method, body)
    assert reply.status == 400
    assert reply.error
    assert world.live() == before


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}x",
                                  b"[" * 100_000, b'{"NetworkID":' * 2000])
def test_row_05_malformed(dockerd: Dockerd, body: bytes) -> None:
    reply = dockerd.raw("NetworkDriver.Join", body)
    assert reply.status == 400
    assert reply.error


@pytest.mark.parametrize(("method", "field", "value"), [
    ("NetworkDriver.CreateNetwork", "NetworkID", 7),
    ("NetworkDriver.CreateNetwork", "NetworkID", "../x"),
    ("NetworkDriver.CreateNetwork", "Options", []),
    ("NetworkDriver.CreateNetwork", "IPv4Data", {}),
    ("NetworkDriver.CreateNetwork", "IPv4Data[0]", ["x"]),
    ("NetworkDriver.CreateNetwork", "IPv4Data[0].Pool", [{"Pool": "10.50.0.0/33"}]),
    ("NetworkDriver.CreateNetwork", "IPv4Data[0].Pool", [{"AddressSpace": "slim-local"}]),
    ("NetworkDriver.CreateNetwork", "Options.com.docker.network.generic.k",
     {"com.docker.network.generic": {"k": 1}}),
    ("NetworkDriver.CreateNetwork", "Options.com.docker.network.internal",
     {"com.docker.network.internal": "true"}),
    ("NetworkDriver.CreateEndpoint", "EndpointID", "zz"),
    ("NetworkDriver.CreateEndpoint", "Interface", "eth0"),
    ("NetworkDriver.CreateEndpoint", "Interface.Address", {"Address": "10.50.0.300/16"}),
    ("NetworkDriver.CreateEndpoint", "Interface.AddressIPv6", {"AddressIPv6": "10.0.0.1/8"}),
    ("NetworkDriver.CreateEndpoint", "Interface.MacAddress", {"MacAddress": "02:42"}),
    ("NetworkDriver.CreateEndpoint", "Options.com.docker.network.endpoint.macaddress",
     {"com.docker.network.endpoint.macaddress": "AkI="}),
    ("NetworkDriver.Join", "SandboxKey", ["x"]),
    ("NetworkDriver.Join", "SandboxKey", ""),
    ("NetworkDriver.AllocateNetwork", "Options.k", {"k": True}),
    ("IpamDriver.RequestPool", "V6", "yes"),
    ("IpamDriver.RequestPool", "Options.k", {"k": 1}),
    ("IpamDriver.RequestPool", "AddressSpace", None),
    ("IpamDriver.RequestAddress", "Address", 7),
    ("IpamDriver.ReleaseAddress", "Address", ""),
])
def test_row_05_wrong_type_names_the_field(dockerd: Dockerd, world: World, method: str, field: str,
                                           value: object) -> None:
    top = re.split(r"[.[]", field, maxsplit=1)[0]
    reply = dockerd.call(method, **{**WITH_ARGUMENTS[method], top: value})
    assert reply.status == 400
    assert field in reply.error
    assert world.live() == World().live()


@pytest.mark.parametrize(("method", "name"), [
    (method, name) for method, fields in WITH_ARGUMENTS.items()
    for name in ("NetworkID", "EndpointID", "PoolID") if name in fields])
def test_row_05_missing_id(dockerd: Dockerd, method: str, name: str) -> None:
    fields = {key: value for key, value in WITH_ARGUMENTS[method].items() if key != name}
    reply = dockerd.call(method, **fields)
    assert reply.status == 400
    assert name in reply.error


def test_row_06_service_error_is_200_with_both(dockerd: Dockerd) -> None:
    reply = dockerd.call("NetworkDriver.Join", **WITH_ARGUMENTS["NetworkDriver.Join"])
    assert reply.status == 200
    assert EP[:12] in reply.error


def test_row_06_unexpected_error(dockerd: Dockerd, world: World, monkeypatch, caplog) -> None:
    network(dockerd)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(world.links, "create_veth", broken)
    endpoint(dockerd)
    before = world.live()
    reply = dockerd.call("NetworkDriver.Join", **WITH_ARGUMENTS["NetworkDriver.Join"])
    assert reply.status == 200
    assert "slim: internal error" in reply.error
    assert "a bug" in reply.error
    assert sum(record.exc_info is not None for record in caplog.records) == 1
    assert world.live() == before


def test_row_06_body_too_large(dockerd: Dockerd) -> None:
    body = json.dumps({"NetworkID": NET, "Options": {"k": "x" * 900_000}}).encode()
    assert dockerd.raw("NetworkDriver.AllocateNetwork", body).status == 200
    connection = UnixConnection(dockerd.path)
    connection.putrequest("POST", "/NetworkDriver.AllocateNetwork")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()  # the length alone is refused; a body would meet a closed socket
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("method", [name for name in WITH_ARGUMENTS
                                    if name.startswith("NetworkDriver.")])
def test_row_07_twice(dockerd: Dockerd, world: World, method: str) -> None:
    if method != "NetworkDriver.CreateNetwork":
        network(dockerd)
    if method not in ("NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint"):
        endpoint(dockerd)
    if method in ("NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint",
                  "NetworkDriver.DeleteNetwork"):
        join(dockerd)
    first = dockerd.ok(method, **WITH_ARGUMENTS[method])
    state = world.live()
    assert dockerd.ok(method, **WITH_ARGUMENTS[method]) == first
    assert world.live() == state


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


def test_row_43_lost_connection(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    body = json.dumps(WITH_ARGUMENTS["NetworkDriver.Join"]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(dockerd.path)
        connection.sendall(b"POST /NetworkDriver.Join HTTP/1.1\r\nHost: \r\nContent-Length: %d"
                           b"\r\n\r\n" % len(body) + body)
        wait_until(lambda: EP in world.finisher.live, 5, "the request to be carried out")
    state = world.live()
    assert dockerd.raw("NetworkDriver.Join", b"").status == 400
    assert world.live() == state


def test_rule_06_store_away_is_a_quick_clear_error(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    world.faults.down = True
    for method in ("CreateNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint",
                   "DeleteNetwork", "EndpointOperInfo"):
        reply = dockerd.call(f"NetworkDriver.{method}", **WITH_ARGUMENTS[f"NetworkDriver.{method}"])
        assert reply.status == 200
        assert "etcd" in reply.error, method


def test_keep_alive_serves_many_requests(dockerd: Dockerd) -> None:
    connection = UnixConnection(dockerd.path)
    for method in WITHOUT_ARGUMENTS * 3:
        connection.request("POST", f"/{method}", b"")
        assert json.loads(connection.getresponse().read())
    connection.close()


def test_one_log_line_per_request(dockerd: Dockerd, caplog) -> None:
    caplog.set_level("INFO", "slim.api")
    network(dockerd)
    dockerd.raw("NetworkDriver.Join", b'{"NetworkID":"a\\nb\\u001b[31m"}')
    # The server's own library may warn that a call had to wait.
    lines = [record.getMessage() for record in caplog.records if record.name == "slim.api"]
    assert len(lines) == 2
    assert lines[0].startswith(f"NetworkDriver.CreateNetwork NetworkID={NET[:12]} ")
    assert lines[0].endswith(" ok")
    assert "\n" not in lines[1]
    assert "\x1b" not in lines[1]
