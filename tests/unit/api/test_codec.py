"""Tests arbitrary bodies: each is understood, or refused with the two error fields."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver.api import codec
from driver.api.app import create_app
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.errors import InvalidRequest
from tests.support.fakes.ports import FakeAddresses, World

NAMES = ["NetworkID", "EndpointID", "Options", "IPv4Data", "IPv6Data", "Interface", "Address",
         "AddressIPv6", "MacAddress", "SandboxKey", "AddressSpace", "Pool",
         "com.docker.network.generic",
         "com.docker.network.endpoint.macaddress", "com.docker.network.endpoint.ifname"]
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
                   st.sampled_from(["a" * 64, "10.50.0.0/16", "10.50.0.7/16", "fd00::1/64", "::",
                                    "02:42:0a:00:00:01", "AkLerb7v", "slim-local", "\ud800"]))
BODIES = st.dictionaries(
    st.sampled_from(NAMES),
    st.recursive(VALUES, lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
        max_leaves=8), max_size=6)
METHODS = ["CreateNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint", "DeleteNetwork",
           "AllocateNetwork", "EndpointOperInfo", "DiscoverNew", "GwAllocCheck"]


@settings(max_examples=150, deadline=None)
@given(method=st.sampled_from(METHODS), body=BODIES)
def test_no_body_surprises_a_call(method: str, body: dict[str, object]) -> None:
    world = World()
    app = create_app(NetworkDriver(world.network_service, world.endpoint_service,
                                   addresses := FakeAddresses(), "local"),
                     IpamDriver(addresses))
    reply = app.test_client().post(f"/NetworkDriver.{method}", data=json.dumps(body).encode())
    answer = json.loads(reply.data)
    assert reply.status_code in (200, 400)
    assert answer.get("Err") == answer.get("Error")
    assert "internal error" not in answer.get("Err", "")
    assert reply.status_code == 200 or answer["Err"]


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=200))
def test_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        fields = codec.decode(body)
    except InvalidRequest:
        return
    assert list(json.loads(body)) == fields.names()


@pytest.mark.parametrize(("text", "mac"), [
    ("02:42:de:ad:be:ef", "0242deadbeef"), ("02-42-DE-AD-BE-EF", "0242deadbeef"), ("", None)])
def test_mac(text: str, mac: str | None) -> None:
    found = codec.Fields({"MacAddress": text}).mac("MacAddress")
    assert found == (None if mac is None else bytes.fromhex(mac))
    assert mac is None or codec.mac_text(found or b"").replace(":", "") == mac


def test_errors_name_the_field_and_shorten_the_value() -> None:
    fields = codec.Fields({"Options": {"k": ["x" * 500]}}).part("Options")
    with pytest.raises(InvalidRequest, match=r"field Options\.k: want a string") as caught:
        fields.text("k")
    assert len(str(caught.value)) < 120
