"""Spells every key in etcd, and parses keys; docs/state.md has the table.

Keys are ASCII: each part is quoted.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote, unquote

from driver.model import EndpointId, HostAddress, HostId, NetworkId, NetworkKey, Vni

ROOT = "/slim/v1/"

CLUSTER = ROOT + "cluster"
VNIS = ROOT + "vnis/"
NETWORKS = ROOT + "networks/"
ENDPOINTS = ROOT + "endpoints/"
LOCAL = ROOT + "local/"  # what belongs to one host and outlives its lease
HOSTS = ROOT + "hosts/"
UNDERLAYS = ROOT + "underlays/"
KNOWN = ROOT + "known/"  # hosts, alive or not
ABSENT = ROOT + "absent/"
SUBNETS = ROOT + "subnets/"
SUBNET_GUARD = ROOT + "subnet-guard"
ADDRESSES = ROOT + "addresses/"
OWNERS = ROOT + "owners/"
SERVICES = ROOT + "services/"
PUBLISHERS = ROOT + "publishers/"
TRIAL = ROOT + "trial"  # key of the trial write; nobody ever creates it
SERVICES_QUESTION = ROOT + "services-question"
ANSWERS = ROOT + "answers/"
TESTS = ROOT + "test/"  # all about a test of the ways between hosts, under its lease
ROUND = TESTS + "round"  # the test that is under way
PARTICIPANTS = TESTS + "participants/"
ROWS = TESTS + "rows/"
WATCHERS = ROOT + "watching/"  # hosts that watch the cluster now
SUMMARIES = ROOT + "summaries/"

# What `slim cluster` keeps.  Drivers may not write there; hosts may read all but the secrets.
CLUSTER_ROOT = "/slim-cluster/v1/"

CLUSTER_CONFIG = CLUSTER_ROOT + "config"
CLUSTER_HOSTS = CLUSTER_ROOT + "hosts/"
CLUSTER_ALIVE = CLUSTER_ROOT + "alive/"  # each host writes its own key
CLUSTER_SECRETS = CLUSTER_ROOT + "secret/"
CLUSTER_TOKEN = CLUSTER_SECRETS + "token"


def cluster_host(host: str) -> str:
    """Return the key of a host that has joined by `slim cluster`."""
    return CLUSTER_HOSTS + _quoted(host)


def cluster_alive(host: str) -> str:
    """Return the key by which a host's keeper says that it lives."""
    return CLUSTER_ALIVE + _quoted(host)


def _quoted(text: str) -> str:
    # ASCII, without "/": one part of a key never looks like two.
    return quote(text, safe=":")


def network(key: NetworkKey) -> str:
    """Return the key of a virtual network."""
    return NETWORKS + _quoted(key)


def members(key: NetworkKey) -> str:
    """Return the prefix of the members: hosts that have a virtual network."""
    return f"{network(key)}/members/"


def member(key: NetworkKey, host: HostId) -> str:
    """Return the key of a host's membership in a virtual network."""
    return members(key) + _quoted(host)


def vni(number: int) -> str:
    """Return the key that only one network can own."""
    return f"{VNIS}{number:08}"


def vni_of(key: str) -> int:
    """Return the number from a key of `vni`."""
    return int(key.removeprefix(VNIS))


def endpoints(number: Vni) -> str:
    """Return the prefix of a network's endpoints: one watch per network."""
    return f"{ENDPOINTS}{number:08}/"


def endpoint(number: Vni, endpoint_id: EndpointId) -> str:
    """Return the key of an endpoint, as all hosts see it."""
    return endpoints(number) + _quoted(endpoint_id)


def endpoint_of(key: str) -> tuple[Vni, EndpointId]:
    """Return network and id from a key of `endpoint`."""
    number, endpoint_id = key.removeprefix(ENDPOINTS).split("/")
    return Vni(int(number)), EndpointId(unquote(endpoint_id))


def local(host: HostId) -> str:
    """Return the prefix of everything that a host keeps for itself."""
    return f"{LOCAL}{_quoted(host)}/"


def local_networks(host: HostId) -> str:
    """Return the prefix of a host's Docker networks."""
    return local(host) + "networks/"


def local_network(host: HostId, network_id: NetworkId) -> str:
    """Return the key of a host's part in a network."""
    return local_networks(host) + _quoted(network_id)


def local_endpoints(host: HostId) -> str:
    """Return the prefix of a host's own endpoints."""
    return f"{LOCAL}{_quoted(host)}/endpoints/"


def local_endpoint(host: HostId, endpoint_id: EndpointId) -> str:
    """Return the key of an endpoint as its own host keeps it."""
    return local_endpoints(host) + _quoted(endpoint_id)


def local_endpoint_of(key: str) -> EndpointId:
    """Return the id from a key of `local_endpoint`."""
    return EndpointId(unquote(key.rsplit("/", 1)[1]))


def fence(host: HostId) -> str:
    """Return the key on whose state all writes of a host depend."""
    return f"{LOCAL}{_quoted(host)}/fence"


def question(host: HostId) -> str:
    """Return the key that asks a host whether all its endpoints are on record."""
    return f"{LOCAL}{_quoted(host)}/question"


def answer(host: HostId) -> str:
    """Return the key of that host's answer."""
    return ANSWERS + _quoted(host)


def answer_of(key: str) -> HostId:
    """Return the id from a key of `answer`."""
    return HostId(unquote(key.removeprefix(ANSWERS)))


def host(host_id: HostId) -> str:
    """Return the key that lives as long as its host's lease."""
    return HOSTS + _quoted(host_id)


def host_of(key: str) -> HostId:
    """Return the id from a key of `host`."""
    return HostId(unquote(key.removeprefix(HOSTS)))


def underlay(ip: HostAddress) -> str:
    """Return the key of an underlay address, which only one host with a lease can hold."""
    return f"{UNDERLAYS}{ip}"


def known(host_id: HostId) -> str:
    """Return the key that outlives its host's lease."""
    return KNOWN + _quoted(host_id)


def known_of(key: str) -> HostId:
    """Return the id from a key of `known`."""
    return HostId(unquote(key.removeprefix(KNOWN)))


def absent(host_id: HostId) -> str:
    """Return the key that records that a host's lease has ended, and what followed."""
    return ABSENT + _quoted(host_id)


def absent_of(key: str) -> HostId:
    """Return the id from a key of `absent`."""
    return HostId(unquote(key.removeprefix(ABSENT)))


def subnet(cidr: str) -> str:
    """Return the key of a subnet with all its pools."""
    return SUBNETS + _quoted(cidr)


def subnet_of(key: str) -> str:
    """Return the CIDR from a key of `subnet`."""
    return unquote(key.removeprefix(SUBNETS))


def addresses(cidr: str) -> str:
    """Return the prefix of a subnet's reservations."""
    return f"{ADDRESSES}{_quoted(cidr)}/"


def address(cidr: str, ip: IPv4Address | IPv6Address) -> str:
    """Return the key of a reservation: hex of fixed width, so key order is address order."""
    return addresses(cidr) + ip.packed.hex()


def subnet_of_address(key: str) -> str:
    """Return the CIDR from a key of `address`."""
    return unquote(key.removeprefix(ADDRESSES).split("/")[0])


def address_of(key: str) -> IPv4Address | IPv6Address:
    """Return the address from a key of `address`."""
    return ip_address(bytes.fromhex(key.rsplit("/", 1)[1]))


def owner(cidr: str, holder: str, name: str) -> str:
    """Return the key that finds a reservation by its owner."""
    return f"{OWNERS}{_quoted(cidr)}/{_quoted(holder)}/{_quoted(name)}"


def owner_of(key: str) -> tuple[str, str, str]:
    """Return CIDR, holder and name from a key of `owner`."""
    cidr, holder, name = key.removeprefix(OWNERS).split("/")
    return unquote(cidr), unquote(holder), unquote(name)


def services(network_id: NetworkId) -> str:
    """Return the prefix of a network's vips."""
    return f"{SERVICES}{_quoted(network_id)}/"


def service(network_id: NetworkId, ip: IPv4Address) -> str:
    """Return the key of a vip in a network."""
    return services(network_id) + ip.packed.hex()


def service_of(key: str) -> tuple[NetworkId, IPv4Address]:
    """Return network and address from a key of `service`."""
    network_id, digits = key.removeprefix(SERVICES).split("/")
    return NetworkId(unquote(network_id)), IPv4Address(bytes.fromhex(digits))


def publisher(swarm_id: str) -> str:
    """Return the key that one manager of a swarm holds."""
    return PUBLISHERS + _quoted(swarm_id)


def publisher_of(key: str) -> str:
    """Return the swarm's id from a key of `publisher`."""
    return unquote(key.removeprefix(PUBLISHERS))


def participants(token: bytes) -> str:
    """Return the prefix of the hosts that take part in a test."""
    return f"{PARTICIPANTS}{token.hex()}/"


def participant(token: bytes, host_id: HostId) -> str:
    """Return the key of a host that takes part in a test."""
    return participants(token) + _quoted(host_id)


def rows(token: bytes) -> str:
    """Return the prefix of what hosts have learnt in a test."""
    return f"{ROWS}{token.hex()}/"


def row(token: bytes, host_id: HostId) -> str:
    """Return the key of what a host has learnt in a test."""
    return rows(token) + _quoted(host_id)


def watching(host_id: HostId) -> str:
    """Return the key that is there while a host watches the cluster."""
    return WATCHERS + _quoted(host_id)


def summary(host_id: HostId) -> str:
    """Return the key of what a host tells of itself while another one watches."""
    return SUMMARIES + _quoted(host_id)


def last_of(key: str) -> str:
    """Return the last part of a key, as it was before it was quoted."""
    return unquote(key.rsplit("/", 1)[1])
