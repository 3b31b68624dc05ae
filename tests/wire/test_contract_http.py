"""Tests the contract's rows on HTTP: bodies, errors, connections, calls made twice."""

from __future__ import annotations

import json
import re
import socket

import pytest

from driver.process.unix_http import UnixConnection
from tests.support.fakes.ports import World
from tests.support.run.wait import wait_until
from tests.support.world.client import Dockerd
from tests.wire.calls import EP, NET, WITH_ARGUMENTS, WITHOUT_ARGUMENTS, endpoint, join, network


def test_row_01_activate(dockerd: Dockerd) -> None:
    reply = dockerd.raw("Plugin.Activate", b"")
    assert (reply.status, reply.json) == (200, {"Implements": ["NetworkDriver", "IpamDriver"]})


@pytest.mark.parametrize("host", ["", "plugin.moby.localhost", "a_b:80"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_row_02_capabilities(dockerd: Dockerd, world: World, scope: str, host: str) -> None:
    world.faults.down = True  # rule 6: dockerd remembers a failure here until it restarts
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
    assert "run the command again" in reply.error
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


def test_row_43_lost_connection(dockerd: Dockerd, world: World) -> None:
    network(dockerd)
    endpoint(dockerd)
    body = json.dumps(WITH_ARGUMENTS["NetworkDriver.Join"]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(dockerd.path)
        connection.sendall(b"POST /NetworkDriver.Join HTTP/1.1\r\nHost: \r\nContent-Length: %d"
                           b"\r\n\r\n" % len(body) + body)
        wait_until(lambda: EP in world.finisher.live, 30, "the request to be carried out")
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
    # The server's library may also warn that a call had to wait.
    lines = [record.getMessage() for record in caplog.records if record.name == "slim.api"]
    assert len(lines) == 2
    assert lines[0].startswith(f"NetworkDriver.CreateNetwork NetworkID={NET[:12]} ")
    assert lines[0].endswith(" ok")
    assert "\n" not in lines[1]
    assert "\x1b" not in lines[1]
