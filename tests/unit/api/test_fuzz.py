"""Tests calls that dockerd would not make: changed copies of real ones, and arbitrary bytes.

Each gets an answer, but never an internal error or a trace.  A refused call must change nothing.
"""

from __future__ import annotations

import copy
import json
from ipaddress import IPv4Address

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driver.api.app import create_app
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.network_driver import NetworkDriver
from driver.ipam.pools import parse_supernet
from driver.model import HostId
from driver.services.addresses.service import AddressService
from driver.store.address_book import EtcdAddressBook
from driver.store.format import keys
from tests.support.fakes.kv import FakeKeyValue
from tests.support.fakes.ports import World

NET, EP = "8c1f" * 16, "0123456789abcdef" * 4
MTU = "com.docker.network.driver.mtu"
POOL_ID = "slim-local/10.50.0.0/16"
IPV4 = [{"AddressSpace": "slim-local", "Pool": "10.50.0.0/16", "Gateway": "10.50.0.1/16",
         "AuxAddresses": {}}]
IDS = {"NetworkID": NET, "EndpointID": EP}
# As dockerd sends them, in its order.
CALLS: list[tuple[str, dict[str, object]]] = [
    ("Plugin.Activate", {}),
    ("NetworkDriver.GetCapabilities", {}),
    ("IpamDriver.GetCapabilities", {}),
    ("IpamDriver.GetDefaultAddressSpaces", {}),
    ("IpamDriver.RequestPool", {"AddressSpace": "slim-local", "Pool": "10.50.0.0/16",
                                "SubPool": "", "Options": {"a": "b"}, "V6": False}),
    ("IpamDriver.RequestAddress", {"PoolID": POOL_ID, "Address": "", "Options": {
        "RequestAddressType": "com.docker.network.gateway"}}),
    ("NetworkDriver.AllocateNetwork", {"NetworkID": NET, "Options": {MTU: "1400"},
                                       "IPv4Data": IPV4, "IPv6Data": []}),
    ("NetworkDriver.CreateNetwork", {"NetworkID": NET, "Options": {
        "com.docker.network.enable_ipv6": False, "com.docker.network.internal": True,
        "com.docker.network.generic": {MTU: "1400"}}, "IPv4Data": IPV4, "IPv6Data": []}),
    ("NetworkDriver.CreateEndpoint", {**IDS, "Options": {
        "com.docker.network.endpoint.macaddress": "AkLerb7v",
        "com.docker.network.portmap": [{"Proto": 6, "IP": "", "Port": 80}]}, "Interface": {
            "Address": "10.50.0.2/16", "AddressIPv6": "fd00::2/64",
            "MacAddress": "02:42:0a:32:00:02"}}),
    ("NetworkDriver.Join", {**IDS, "SandboxKey": "/var/run/docker/netns/1", "Options": {}}),
    ("NetworkDriver.EndpointOperInfo", IDS),
    ("NetworkDriver.ProgramExternalConnectivity", {**IDS, "Options": {}}),
    ("NetworkDriver.RevokeExternalConnectivity", IDS),
    ("NetworkDriver.DiscoverNew", {"DiscoveryType": 1, "DiscoveryData": {"Address": "1.2.3.4"}}),
    ("NetworkDriver.Leave", IDS),
    ("NetworkDriver.DeleteEndpoint", IDS),
    ("NetworkDriver.DeleteNetwork", {"NetworkID": NET}),
    ("NetworkDriver.FreeNetwork", {"NetworkID": NET}),
    ("IpamDriver.ReleaseAddress", {"PoolID": POOL_ID, "Address": "10.50.0.1"}),
    ("IpamDriver.ReleasePool", {"PoolID": POOL_ID}),
    ("Slim.Status", {}),
    ("Slim.Counters", {}),
    ("Slim.Metrics", {}),
    ("Slim.Log", {}),
]
ODD_TEXTS = [
    "", " ", "\0", "\n", "\ud800", "../../etc/passwd", "/proc/self/ns/net", "; rm -rf /", "$(id)",
    "%2f", "{}", "9" * 5000, "x" * 100_000, "10.50.0.2", "10.50.0.2/16", "10.50.0.2/99",
    "010.050.0.02/16", "0.0.0.0/0", "255.255.255.255/32", "::/0", "::ffff:10.50.0.2/112",
    "fe80::1%1", "fe80::1%a/64", "10.50.0.0/255.255.0.0", "10.50.0.0/-1",
    "\u0661\u0660.0.0.1/16", "\u0661", "\ufb00:\ufb00:\ufb00", "slim-global",
    "slim-local/10.50.0.0/16/10.50.4.0/24", "slim-local//", "/", "NaN"]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=30),
    st.sampled_from(ODD_TEXTS), st.just([]), st.just({}), st.lists(st.none(), max_size=2),
    st.dictionaries(st.sampled_from(["Pool", "a", MTU, ""]), st.sampled_from(ODD_TEXTS),
                    max_size=2))


class Api:
    """The application over fakes of the kernel and of etcd, with the real IPAM."""

    def __init__(self) -> None:
        self.world, self.kv = World(), FakeKeyValue()
        addresses = AddressService(
            EtcdAddressBook(self.kv), HostId("a" * 32),
            supernets=(parse_supernet("10.128.0.0/9", 22), parse_supernet("fd51:1d00::/32", 64)),
            routed=lambda: [], underlay=IPv4Address("198.18.0.1"))
        self.client: FlaskClient = create_app(
            NetworkDriver(self.world.network_service, self.world.endpoint_service, addresses,
                          "local"),
            IpamDriver(addresses), Control(lambda: {"connected": 1}, lambda: {"etcd": "answers"})
        ).test_client()

    def state(self) -> tuple[dict[str, object], dict[str, bytes]]:
        return self.world.live(), {entry.key: entry.value
                                   for entry in self.kv.range(keys.ROOT).entries}

    def call(self, method: str, body: bytes) -> bool:
        """Make a call, and check the form of its answer; return whether it succeeded."""
        before = self.state()
        reply = self.client.post(f"/{method}", data=body)
        text = reply.data.decode()
        answer = json.loads(text)
        assert reply.status_code in (200, 400, 413)
        assert "Traceback" not in text
        assert "internal error" not in text, text[:300]
        assert answer.get("Err") == answer.get("Error")
        refused = bool(answer.get("Err"))
        assert refused or reply.status_code == 200
        if refused:
            assert len(text) < 20_000  # twice a thousand characters, escaped
            assert self.state() == before
        return not refused


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return every place in a body that can be changed, the body itself included."""
    found = [path]
    if isinstance(value, dict):
        found += [one for key, inner in value.items() for one in _places(inner, (*path, key))]
    elif isinstance(value, list):
        found += [one for at, inner in enumerate(value) for one in _places(inner, (*path, at))]
    return found


def _changed(body: object, path: tuple[object, ...], value: object) -> object:
    if not path:
        return value
    changed = copy.deepcopy(body)
    at = changed
    for key in path[:-1]:
        at = at[key]  # type: ignore[index]
    at[path[-1]] = value  # type: ignore[index]
    return changed


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_one_thing_wrong_in_a_call(data: st.DataObject) -> None:
    """It comes at any moment of a network's life; the right call must still work afterwards."""
    api = Api()
    number = data.draw(st.integers(0, len(CALLS) - 1))
    for method, body in CALLS[:number]:
        api.call(method, json.dumps(body).encode())
    method, body = CALLS[number]
    wrong = _changed(body, data.draw(st.sampled_from(_places(body))), data.draw(ODD))
    if not api.call(method, json.dumps(wrong).encode()):
        assert api.call(method, json.dumps(body).encode()), (method, body)


def test_nothing_is_wrong_with_the_calls_themselves() -> None:
    api = Api()
    for method, body in CALLS:
        assert api.call(method, json.dumps(body).encode()), method
    assert not any(api.world.live().values())


@settings(max_examples=80, deadline=None)
@given(method=st.sampled_from([method for method, _ in CALLS]), body=st.binary(max_size=300))
def test_bytes_from_anywhere(method: str, body: bytes) -> None:
    Api().call(method, body)


@pytest.mark.parametrize("body", [
    b"[" * 500_000, b'{"a":' * 100_000, b'{"NetworkID":' + b"9" * 500_000 + b"}", b"\xff\xfe{}",
    b'{"NetworkID":NaN}', b'{"NetworkID":Infinity}', b"{}" + b" " * 500_000, b'{"a":1}{"b":2}',
    b'{"NetworkID":"a","NetworkID":{}}', b"\0", b'"text"', b"7", b" " * (1 << 21)],
    ids=lambda body: repr(body[:16]))
@pytest.mark.parametrize("method", ["NetworkDriver.CreateNetwork", "IpamDriver.RequestPool",
                                    "NetworkDriver.Join"])
def test_bodies_made_to_hurt(method: str, body: bytes) -> None:
    assert not Api().call(method, body)


@pytest.mark.parametrize("path", ["/", "/NetworkDriver", "/../etc/passwd", "/NetworkDriver.Nothing",
                                  "/static/x", "/%00", "/Slim.Status/x", "/" + "x" * 10_000])
def test_what_is_no_call(path: str) -> None:
    reply = Api().client.post(path, data=b"{}")
    assert reply.status_code == 404
    assert json.loads(reply.data)["Err"]
    assert len(reply.data) < 500
